//! Acknowledgements and the client's Maximum Packet Size.

use super::scene::{Scene, Speaks};

/// The gateway adds neither a Reason String nor User Properties, however much a client takes.
///
/// MQTT 5.0 [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.5.2-2], [MQTT-3.5.2-3], [MQTT-3.6.2-2],
/// [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3], [MQTT-3.9.2-1], [MQTT-3.9.2-2],
/// [MQTT-3.11.2-1], [MQTT-3.11.2-2].
#[test]
fn acknowledgements_stay_within_the_maximum_packet_size_of_the_client() {
    // Maximum Packet Size 24 and 65,536; Request Problem Information 1.
    let sizes: [&[u8]; 2] = [&[0x27, 0, 0, 0, 24, 0x17, 1], &[0x27, 0, 1, 0, 0, 0x17, 1]];
    for properties in sizes {
        let mut scene = Scene::new(Speaks::V5);
        let (client, _) = scene.connect(b'c', true, properties);
        scene.check(client, b"\x32\x07\0\x01t\0\x09\0x", &[0x40, 2, 0, 9]);
        scene.check(client, b"\x34\x07\0\x01t\0\x09\0x", &[0x50, 2, 0, 9]);
        scene.check(client, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
        scene.check(client, &[0x62, 2, 0, 9], &[0x70, 3, 0, 9, 0x92]);
        scene.check(client, &[0x50, 2, 0, 9], &[0x62, 3, 0, 9, 0x92]);
        scene.check(client, b"\x82\x08\0\x01\0\0\x02a#\x01", &[0x90, 4, 0, 1, 0, 0x8F]);
        scene.check(client, b"\xA2\x06\0\x02\0\0\x01a", &[0xB0, 4, 0, 2, 0, 0x11]);
    }
}
