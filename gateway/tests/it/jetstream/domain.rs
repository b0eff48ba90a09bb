//! A sub-cluster that is a leaf node with a JetStream domain of its own, behind a hub.

use super::permissions::{EXTRAS, do_everything};
use super::site::{Node, flags};
use crate::nats::server::{NatsServer, free_ports};
use crate::process::gateway::TempDirectory;

/// NATS documentation, "JetStream on leaf nodes": each domain has streams of its own, and the API without
/// a domain is that of the server's. A gateway is connected to the servers of its sub-cluster, so it
/// needs no domain.
#[test]
fn a_leaf_node_with_a_domain_of_its_own_is_a_sub_cluster() {
    let directory = TempDirectory::new();
    let [leaf_port]: [u16; 1] = free_ports();
    let start = |name: &str, leaf_nodes: &str| {
        let file = directory.path().join(name);
        let text = format!("jetstream {{ domain: {name} }}\nleafnodes {{ {leaf_nodes} }}\n");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        NatsServer::start_with(&["--config", file, "--server_name", name, "--port", "-1"])
    };
    let hub = start("hub", &format!("listen: \"127.0.0.1:{leaf_port}\""));
    let remote = format!("remotes: [{{ url: \"nats://127.0.0.1:{leaf_port}\" }}]");
    let leaf = start("leaf", &remote);
    let mut nodes = ["g1", "g2"].map(|id| {
        let mut node = Node::start_with(
            [flags(id, "shared", &[leaf.address()]), EXTRAS.map(str::to_owned).to_vec()].concat(),
        );
        node.wait_until_live(1);
        node
    });
    let [here, there] = nodes.each_ref().map(|node| node.address().unwrap());
    do_everything(here, there, true);
    nodes.iter_mut().for_each(Node::stop);

    // What is stored at the leaf is there under its domain, and the hub has nothing of it.
    let mut application = hub.connect();
    let stored = application.api("$JS.leaf.API.STREAM.INFO.MQTT_0", "");
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["domain"], "leaf", "{stored}");
    assert!(stored["state"]["messages"].as_u64().unwrap() > 0, "{stored}");
    let of_hub = application.request("$JS.API.STREAM.INFO.MQTT_0", "");
    assert!(of_hub.contains("\"error\""), "{of_hub}");
}
