//! A backup of a stream is put back while the server runs, as `nats stream restore` does: what was stored since
//! the backup is gone, and its places are used again.

use super::device::{Device, Hello};
use super::site::{Node, Site};
use crate::process::gateway::PATIENCE;
use async_nats::Client;
use bytes::Bytes;
use futures_lite::StreamExt as _;
use gateway::proto::mqtt::QoS;
use serde_json::{Value, json};

/// Where the server sends what it backs up.
const BACKUP_SUBJECT: &str = "backup";

async fn api(client: &Client, operation: &str, question: &Value) -> Value {
    let subject = format!("$JS.API.STREAM.{operation}.MQTT_0");
    let answer = client.request(subject, question.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer.get("error"), None, "{operation}");
    answer
}

/// What the server says of the stream, and its pieces. Each is acknowledged, and an empty one is the last.
async fn back_up(client: &Client) -> (Value, Vec<Bytes>) {
    let mut pieces = client.subscribe(BACKUP_SUBJECT).await.unwrap();
    let question = json!({"deliver_subject": BACKUP_SUBJECT, "no_consumers": true});
    let described = api(client, "SNAPSHOT", &question).await;
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await {
        if let Some(reply_to) = piece.reply {
            client.publish(reply_to, Bytes::new()).await.unwrap();
        }
        if piece.payload.is_empty() {
            break;
        }
        all.push(piece.payload);
    }
    (described, all)
}

async fn put_back(client: &Client, described: &Value, pieces: Vec<Bytes>) {
    api(client, "DELETE", &json!({})).await;
    let question = json!({"config": described["config"], "state": described["state"]});
    let answer = api(client, "RESTORE", &question).await;
    let to = answer["deliver_subject"].as_str().unwrap().to_owned();
    for piece in pieces.into_iter().chain([Bytes::new()]) {
        client.request(to.clone(), piece).await.unwrap();
    }
}

/// The next messages, each once, up to the `last`, which were stored since: what was lost may be among them.
fn new_messages(device: &mut Device, last: &str) -> Vec<String> {
    let before = device.messages_before(last).into_iter().map(|one| one.text().to_owned());
    before.filter(|text| text.starts_with("new")).chain([last.to_owned()]).collect()
}

#[test]
fn what_is_stored_after_a_backup_was_put_back_arrives() {
    let site = Site::start();
    let mut node = Node::start("g1", &site.addresses()[..1]);
    node.wait_until_live(1);
    let address = node.address().unwrap();
    let subscribe = |client_id| {
        let (mut device, _) = Device::connect(address, client_id, Hello::LASTING);
        device.listen(&["t/#"], QoS::ExactlyOnce);
        device
    };
    let (mut stays, mut away) = (subscribe("stays"), subscribe("away"));
    let mut publisher = Device::brief(address, "publisher");
    publisher.publish("t/1", QoS::ExactlyOnce, "kept");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime
        .block_on(async_nats::connect(site.addresses()[0].to_string()))
        .expect("the server runs");
    let (described, pieces) = runtime.block_on(back_up(&client));
    for number in 0..10 {
        publisher.publish("t/1", QoS::ExactlyOnce, format!("lost {number}"));
    }
    for device in [&mut stays, &mut away] {
        assert_eq!(device.messages_before("lost 9").len(), 10);
        device.ping();
    }
    drop(away);
    runtime.block_on(async {
        let putting_back = put_back(&client, &described, pieces);
        tokio::time::timeout(PATIENCE, putting_back).await.expect("it ends in time");
    });
    let new: Vec<String> = (0..5).map(|number| format!("new {number}")).collect();
    for text in &new {
        publisher.publish("t/1", QoS::ExactlyOnce, text);
    }
    assert_eq!(new_messages(&mut stays, "new 4"), new);
    let (mut away, welcome) = Device::connect(address, "away", Hello::LASTING);
    assert!(welcome.session_present);
    assert_eq!(new_messages(&mut away, "new 4"), new);
}
