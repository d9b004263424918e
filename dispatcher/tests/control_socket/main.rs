//! The control socket from outside: who gets it, what it answers, and what it survives. Behind it stands a dispatcher that is made up.

#[path = "../made_up/mod.rs"]
mod made_up;

mod answers;
mod callers;
mod capture;
mod changes;
mod description;
mod nonsense;
mod page;
mod questions;
mod scene;
