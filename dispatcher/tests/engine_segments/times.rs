//! When a connection began, when its server first spoke, and how long it lasted; and by which address and port its server knows it.

use super::*;

#[test]
fn a_record_says_when_it_began_when_its_server_first_spoke_and_how_long_it_lasted() {
    for mut b in all_worlds() {
        let client = b.client;
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.wait(ms(3));
        let began = b.now;
        b.client_sends(seg(ACK, 1, 1, &[]));
        b.wait(ms(4));
        b.client_sends(seg(ACK, 1, 1, HTTP));
        b.wait(ms(5));
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.server_sends(Seg { options: &mss, ..seg(SYN_ACK, 0, 1, &[]) });
        b.server_sends(seg(ACK, 1, 19, &[]));
        // An upload: the server takes it, and says nothing.
        for n in 0..3 {
            b.client_sends(seg(ACK, 19 + n * 100, 1, &[7; 100]));
            b.server_sends(seg(ACK, 1, 119 + n * 100, &[]));
            b.wait(ms(6));
        }
        b.server_sends(seg(ACK, 1, 319, b"done"));
        b.wait(ms(7));
        b.server_sends(seg(ACK, 5, 319, b"and"));
        b.server_sends(seg(FIN_ACK, 8, 319, &[]));
        b.client_sends(seg(FIN_ACK, 319, 9, &[]));
        b.server_sends(seg(ACK, 9, 320, &[]));
        let told = b.told.last().expect("it has ended");
        assert_eq!((told.end, told.bytes_to_server, told.bytes_to_client), (End::Fin, 318, 7));
        assert_eq!((told.client, told.local), (client, Some(b.dialled_from)));
        assert_eq!(told.began, began);
        assert_eq!(told.first_byte, Some(ms(4 + 5 + 3 * 6)));
        assert_eq!(told.lasted, ms(4 + 5 + 3 * 6 + 7));
        assert_eq!(told.handshake, None, "it is no TLS");
        if b.config.address_mode == AddressMode::Dnat {
            assert_eq!(told.local, Some(client), "its server sees the client");
        }
    }
}

#[test]
fn a_connection_that_reached_nobody_has_no_first_byte() {
    let mut b = bench();
    b.dial(HTTP);
    // Whoever is asked refuses.
    b.server_sends(seg(RST_ACK, 0, 1, &[]));
    b.wait(Duration::from_secs(100));
    let told = b.told.last().expect("it has ended");
    assert_eq!((told.end, told.first_byte, told.handshake), (End::NoBackend, None, None));
}
