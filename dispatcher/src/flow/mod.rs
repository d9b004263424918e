//! Flow table, SYN cookie, splice: pure.
