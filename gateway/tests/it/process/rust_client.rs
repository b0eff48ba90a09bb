//! `rumqttc`, the Rust client, in 3.1.1 and 5.0.
