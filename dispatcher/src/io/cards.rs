//! Devices that one process only can have (DPDK's): who takes over from another opens them when that one has let go of them.

use crate::wire::Mac;

/// What a process tells of a device that it has, for another that is to have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    /// What the driver calls it.
    pub name: String,
    /// Its port's address: known before the device is there.
    pub mac: Mac,
    /// How it divides what it receives; none where it has one queue only, or does not tell.
    pub spread: Option<Spread>,
}

/// How a card divides what it receives among its queues (RSS).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spread {
    /// Of its hash.
    pub key: Vec<u8>,
    /// The queue of each entry of its table.
    pub table: Vec<u16>,
    /// TCP over IPv4 is hashed with its ports.
    pub v4: bool,
    /// TCP over IPv6 is.
    pub v6: bool,
}

impl Spread {
    /// The same over so many queues.
    pub fn over(self, queues: usize) -> Spread {
        let there = self.table.iter().max().map_or(0, |last| usize::from(*last) + 1);
        if there == queues {
            return self;
        }
        // As cards do by themselves.
        let table = (0..self.table.len()).map(|entry| (entry % queues.max(1)) as u16).collect();
        Spread { table, ..self }
    }
}

/// All of a process's, as it tells of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// In the order of its ports.
    pub cards: Vec<Card>,
    /// They are told addresses of the process's memory, not the machine's. The same in the other process, or they may not work there.
    pub virtual_addresses: bool,
}

/// All of a process's. Nobody receives or sends meanwhile.
pub trait Cards {
    /// What another process has to know of them.
    fn tell(&self) -> Told;

    /// Closes them, so that another process can open them.
    fn let_go(&self) -> Result<(), String>;

    /// Opens them, all or none, as they were or as another process has told. What waited at them is lost.
    fn take_up(&self) -> Result<(), String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stays_as_it_is_for_as_many_queues_and_is_dealt_anew_for_others() {
        let odd = Spread { key: vec![1; 40], table: vec![1, 1, 0, 1], v4: true, v6: false };
        assert_eq!(odd.clone().over(2), odd);
        assert_eq!(odd.clone().over(3).table, [0, 1, 2, 0]);
        assert_eq!(odd.over(1).table, [0; 4]);
    }
}
