//! One trait, one file per driver.
