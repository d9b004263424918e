//! The example handshakes of RFC 8448.

mod common;

use common::{events, hex, records, unhex};
use ssl_parse::{
    CipherSuite, ClientHello, Framing, NamedGroup, ProtocolVersion, ServerHello, Side, client_hello, server_hello,
};

/// Section 3, {client} construct a ClientHello handshake message.
const CLIENT_HELLO_1RTT: &str = "
    010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece700000613011303130201
    0000910000000b0009000006736572766572ff01000100000a0014001200
    1d0017001800190100010101020103010400230000003300260024001d002099381de560e4bd43d23d8e435a7dbafeb3
    c06e51c13cae4d5413691e529aaf2c002b0003020304000d0020001e0403050306030203080408050806040105010601
    02010402050206020202002d00020101001c00024001";

/// Section 3, {server} construct a ServerHello handshake message.
const SERVER_HELLO_1RTT: &str = "
    020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e00330024
    001d0020c9828876112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304";

/// Section 4, the resumed handshake with early data, binders included.
const CLIENT_HELLO_0RTT: &str = "
    010001fc03031bc3ceb6bbe39cff938355b5a50adb6db21b7a6af649d7b4bc419d7876487d9500000613011303130201
    0001cd0000000b0009000006736572766572ff01000100000a00140012001d0017001800190100010101020103010400
    3300260024001d0020e4ffb68ac05f8d96c99da26698346c6be16482badddafe051a66b4f18d668f0b002a0000002b00
    03020304000d0020001e040305030603020308040805080604010501060102010402050206020202002d00020101001c
    000240010015005700000000000000000000000000000000000000000000000000000000000000000000000000000000
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    2900dd00b800b22c035d829359ee5ff7af4ec900000000262a6494dc486d2c8a34cb33fa90bf1b0070ad3c498883c936
    7c09a2be785abc55cd226097a3a982117283f82a03a143efd3ff5dd36d64e861be7fd61d2827db279cce145077d454a3
    664d4e6da4d29ee03725a6a4dafcd0fc67d2aea70529513e3da2677fa5906c5b3f7d8f92f228bda40dda721470f9fbf2
    97b5aea617646fac5c03272e970727c621a79141ef5f7de6505e5bfbc388e93343694093934ae4d357fad6aacb002120
    3add4fb2d8fdf822a0ca3cf7678ef5e88dae990141c5924d57bb6fa31b9e5f9d";

/// Section 5, before the retry.
const CLIENT_HELLO_1: &str = "
    010000b00303b0b1c5a5aa37c5919f2ed1d5c6fff7fcb7849716945a2b8cee9258a346677b6f00000613011303130201
    0000810000000b0009000006736572766572ff01000100000a00080006001d00170018003300260024001d0020e8e8e3
    f3b93a25ed97a14a7dcacb8a272c6288e585c6484d05262fcad062ad1f002b0003020304000d0020001e040305030603
    020308040805080604010501060102010402050206020202002d00020101001c00024001";

const HELLO_RETRY_REQUEST: &str = "
    020000ac0303cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c00130100008400330002
    0017002c0074007271dcd04bb88bc3189119398a00000000eefafc76c146b823b096f8aacad365dd0030953f4edf6256
    36e5f21bb2e23fcc654b1b5b40318d10d137abcbb87574e36e8a1f025f7dfa5d6e50781b5eda4aa15b0c8be778257d16
    aa3030e9e7841dd9e4c0342267e8ca0caf571fb2b7cff0f934b0002b00020304";

/// Section 5, after the retry, up to its last extension: `padding` of 175 zero bytes.
const CLIENT_HELLO_2: &str = "
    010001fc0303b0b1c5a5aa37c5919f2ed1d5c6fff7fcb7849716945a2b8cee9258a346677b6f00000613011303130201
    0001cd0000000b0009000006736572766572ff01000100000a00080006001d001700180033004700450017004104a6da
    7392ec591e17abfd535964b99894d13befb221b3def2ebe3830eac8f0151812677c4d6d2237e85cf01d6910cfb83954e
    76ba7352830534159897e8065780002b0003020304000d0020001e040305030603020308040805080604010501060102
    010402050206020202002c0074007271dcd04bb88bc3189119398a00000000eefafc76c146b823b096f8aacad365dd00
    30953f4edf625636e5f21bb2e23fcc654b1b5b40318d10d137abcbb87574e36e8a1f025f7dfa5d6e50781b5eda4aa15b
    0c8be778257d16aa3030e9e7841dd9e4c0342267e8ca0caf571fb2b7cff0f934b0002d00020101001c00024001001500
    af";

const SERVER_HELLO_2: &str = "
    020000770303bb341d847fd789c47c387172dc0c9bf147fccacb5043d86ca4c598d3ff571b9800130100004f00330045
    0017004104583e054b7a66672ae020ad9d2686fcc85b5ad41a134a0f03ee72b893052bd85b4c8de6776f5b04ac07d835
    40eab3e3d9c547bc6528c4317d294686093a6cad7d002b00020304";

fn client_hello_2() -> Vec<u8> {
    [unhex(CLIENT_HELLO_2), vec![0; 175]].concat()
}

#[test]
fn simple_1_rtt_client_hello() {
    let stream = records(22, &unhex(CLIENT_HELLO_1RTT), &[]);
    let hello = client_hello(&stream, &mut []).complete().unwrap();
    assert_eq!(
        (hello.framing, hello.record_version, hello.legacy_version),
        (Framing::Tls, ProtocolVersion::TLS1_0, ProtocolVersion::TLS1_2)
    );
    assert_eq!(hex(hello.random), "cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7");
    assert_eq!(hello.session_id, b"");
    assert!(hello.cipher_suites.eq([0x1301, 0x1303, 0x1302].map(CipherSuite)));
    assert_eq!(hello.compression_methods, [0]);
    assert_eq!(hello.sni, Some(&b"server"[..]));
    assert_eq!(hello.ticket, Some(&b""[..]));
    assert!(hello.supported_versions.unwrap().eq([ProtocolVersion::TLS1_3]));
    let (group, key) = hello.key_shares.unwrap().next().unwrap();
    assert_eq!((group, key.len(), key[0]), (NamedGroup::X25519, 32, 0x99));
    assert!(hello.alpn.is_none() && hello.psk.is_none() && !hello.early_data && !hello.ech && hello.cookie.is_none());
    assert!(hello.offers_1_3());
    assert_eq!(hello.extensions.count(), 9);
    assert_eq!(hello.consumed, stream.len());
}

#[test]
fn simple_1_rtt_server_hello() {
    let stream = records(22, &unhex(SERVER_HELLO_1RTT), &[]);
    let hello = server_hello(&stream, &mut []).complete().unwrap();
    assert_eq!((hello.version, hello.legacy_version), (ProtocolVersion::TLS1_3, ProtocolVersion::TLS1_2));
    assert_eq!(
        (hello.cipher_suite, hello.key_share_group),
        (CipherSuite::AES_128_GCM_SHA256, Some(NamedGroup::X25519))
    );
    assert!(!hello.hello_retry && !hello.psk_accepted() && !hello.ticket_ext && hello.alpn.is_none());
}

#[test]
fn resumed_0_rtt_client_hello() {
    let bytes = unhex(CLIENT_HELLO_0RTT);
    let hello = ClientHello::parse(&bytes[4..], Framing::Bare, ProtocolVersion(0)).unwrap();
    let identities: Vec<_> = hello.psk_identities().collect();
    assert_eq!(identities.len(), 1);
    assert_eq!(identities[0].identity.len(), 0xb2);
    assert_eq!(hex(&identities[0].identity[..16]), "2c035d829359ee5ff7af4ec900000000");
    assert_eq!(identities[0].obfuscated_ticket_age, 0xfad6_aacb);
    assert_eq!(hello.psk.unwrap().binders().len(), 33);
    assert!(hello.early_data);
    assert_eq!(hello.ticket, None);
}

#[test]
fn hello_retry_request_and_what_follows() {
    let retry = unhex(HELLO_RETRY_REQUEST);
    let hello = ServerHello::parse(&retry[4..], ProtocolVersion::TLS1_2).unwrap();
    assert!(hello.hello_retry && hello.version == ProtocolVersion::TLS1_3);
    assert_eq!(hello.key_share_group, Some(NamedGroup::SECP256R1));

    let second = client_hello_2();
    let hello = ClientHello::parse(&second[4..], Framing::Tls, ProtocolVersion::TLS1_2).unwrap();
    assert_eq!(hello.cookie.map(<[u8]>::len), Some(0x72));
    assert_eq!(hello.key_shares.unwrap().next().unwrap().0, NamedGroup::SECP256R1);
}

/// Section 7 is the same handshake with the compatibility mode's ChangeCipherSpec; here it stands in section 5's.
#[test]
fn followers_see_both_hellos_of_a_retry_with_and_without_the_decoy() {
    let encrypted = records(23, &[0xaa; 60], &[]);
    for decoy in [&[][..], &[20, 3, 3, 0, 1, 1]] {
        let client =
            [&records(22, &unhex(CLIENT_HELLO_1), &[]), decoy, &records(22, &client_hello_2(), &[]), &encrypted]
                .concat();
        let server = [
            &records(22, &unhex(HELLO_RETRY_REQUEST), &[]),
            decoy,
            &records(22, &unhex(SERVER_HELLO_2), &[]),
            &encrypted,
        ]
        .concat();
        let kinds = |events: Vec<String>| events.iter().map(|e| e[..2].to_owned()).collect::<String>();
        let ccs = if decoy.is_empty() { "" } else { "Ch" };
        assert_eq!(kinds(events::<600>(Side::Client, [&client[..]])), format!("ch{ccs}chEnre"));
        assert_eq!(kinds(events::<600>(Side::Server, [&server[..]])), format!("sh{ccs}shEnre"));
    }
}
