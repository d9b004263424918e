//! What outlives the process: the affinity tables, in a file (`--state`).
//!
//! The tables stay in memory as they are. Beside each row that changes its worker writes a copy into the mapped file: no system call, and no more than memory
//! written, whatever the disk does. So a process that is killed at any instant leaves all rows but the one that was being written, and that
//! one has no checksum. (What a machine leaves that loses its power is what the kernel has written by then: half a minute may be missing.)
//!
//! * A start reads the rows of the file one by one and takes in what it has a use for: rows of backends that are wanted, by name, that are not too old. So
//!   other backends, other numbers of workers and other sizes are nothing special.
//! * It reads from the old file and writes to a new one beside it (`.new`), which takes the old one's name once it is whole: a start that is killed leaves the
//!   old one.
//! * What is damaged as a whole, cut off, or of another machine, is set aside (`.damaged`) and said, and not believed in any part. A row that is
//!   damaged is left out, and counted.
//! * Whoever writes a file has it locked. Another dispatcher leaves it alone, says so, and goes on without.
//! * Whatever is wrong, the dispatcher starts.
//!
//! | file | bound | when full |
//! |---|---|---|
//! | rows | 64 bytes for each place of the affinity tables | cannot be: each row has its place |
//! | disk | taken at start, as a whole | goes on without a file, and says so |

pub mod file;
pub mod header;
pub mod rows;

pub use file::{Note, State, open, open_beside};
