//! A bench for single segments: a test says what arrives, and states what leaves.
