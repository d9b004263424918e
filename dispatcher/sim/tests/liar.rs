//! An adversary that knows how sessions are learned, among honest clients that come back ([`sim::liar`]).

use sim::liar::lies::Trick;
use sim::liar::{play, play_changed};

#[test]
fn a_liar_misleads_no_honest_client_and_makes_no_row() {
    for seed in 1..=4 {
        let r = play(seed, 5000);
        println!("seed {seed}: {r:?}");
        assert_eq!((r.misled, r.lost, r.invented), (0, 0, 0), "seed {seed}: {r:?}");
        // He was there, and so were they.
        assert!(r.lies > 2000 && r.returns > 800 && r.resumed * 10 > r.returns * 8, "seed {seed}: {r:?}");
    }
}

#[test]
fn no_single_trick_of_a_liar_misleads_an_honest_client() {
    for trick in Trick::ALL {
        let r = play_changed(5, 4000, Some(trick), |_| ());
        println!("{trick:?}: {r:?}");
        assert_eq!((r.misled, r.lost, r.invented), (0, 0, 0), "{trick:?}: {r:?}");
        assert!(r.lies > 2000 && r.returns > 300, "{trick:?}: {r:?}");
    }
}

#[test]
fn the_comparison_of_worlds_finds_sessions_that_are_misled() {
    let r = play_changed(1, 1500, None, |config| config.wanted.services[0].policy.affinity = false);
    assert!(r.misled * 10 > r.returns, "{r:?}");
}

#[test]
fn a_play_of_a_liar_is_the_same_each_time() {
    assert_eq!(play(9, 600), play(9, 600));
}
