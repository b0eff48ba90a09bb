//! The status page in a browser: what it shows is what the API says, in light and dark.

use super::http::get;
use super::start;
use crate::nats::server::NatsServer;
use crate::process::gateway::{Gateway, TempDirectory};
use crate::process::raw_client::{RawClient, V5, publish, subscribe};
use crate::process::tools::{run, tool, tools_folder};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

/// A client id that must not become markup.
const SLOW: &str = "slow <b>&";

/// What a browser made of the page: the document, and the colour of what lies behind all else.
struct Drawn {
    dom: String,
    ground: String,
}

/// Lets Chromium show the page for some of its seconds, `None` where there is none and that is allowed.
fn browse(admin: SocketAddr, scheme: &str) -> Option<Drawn> {
    let directory = TempDirectory::new();
    let picture = directory.path().join("page.png");
    let mut chromium = tool("chromium", &["--version"])?;
    let mut python = tool(tools_folder().join("python/bin/python"), &["--version"])?;
    chromium
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--no-first-run"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=9000", "--dump-dom"])
        .args(["--window-size=1280,1150", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        // Of Blink's enumeration.
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(scheme == "light")))
        .arg(format!("http://{admin}/"));
    let output = chromium.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{complaints:?}\n{log}");
    // Whatever a PNG's first line is filtered by, its first pixel is as it is.
    let first_pixel = "import sys, zlib; data = open(sys.argv[1], 'rb').read(); at, body = 8, b''\n\
        while at < len(data):\n \
        size = int.from_bytes(data[at:at + 4], 'big')\n \
        body += data[at + 8:at + 8 + size] if data[at + 4:at + 8] == b'IDAT' else b''\n \
        at += size + 12\n\
        print(zlib.decompress(body)[1:4].hex())";
    python.args(["-c", first_pixel]).arg(&picture);
    let ground = run(python).trim().to_owned();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    // What follows is the page's program, in which anything may stand.
    let dom = dom.split("<script>").next().unwrap().to_owned();
    Some(Drawn { dom, ground })
}

/// What is left of `html` without tags.
fn text(html: &str) -> String {
    let mut pieces = html.split('<');
    let first = pieces.next().unwrap_or_default().to_owned();
    let rest = pieces.filter_map(|piece| piece.split_once('>').map(|(_, text)| text));
    rest.fold(first, |all, text| all + text).trim().to_owned()
}

impl Drawn {
    /// What the element with this id holds, up to its own end tag.
    #[track_caller]
    fn inside(&self, id: &str, tag: &str) -> &str {
        let begin = self.dom.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no #{id}"));
        let (_, rest) = self.dom[begin..].split_once('>').unwrap();
        rest.split(&format!("</{tag}>")).next().unwrap()
    }

    #[track_caller]
    fn text(&self, id: &str, tag: &str) -> String {
        text(self.inside(id, tag))
    }

    /// The rows of a table, without its head.
    #[track_caller]
    fn rows(&self, id: &str) -> Vec<Vec<String>> {
        let (_, body) = self.inside(id, "table").split_once("<tbody>").unwrap();
        let row =
            |row: &str| row.split("<td").skip(1).map(|cell| text(&format!("<td{cell}"))).collect();
        body.split("<tr>").skip(1).map(row).collect()
    }
}

/// The number at `pointer` of each shard.
fn of_shards<'o>(overview: &'o Value, key: &'static str) -> impl Iterator<Item = u64> + 'o {
    let shards = overview["shards"].as_array().unwrap().iter();
    shards.map(move |shard| shard[key].as_u64().unwrap_or_else(|| panic!("{key}: {shard}")))
}

fn json_of(admin: SocketAddr, path: &str) -> Value {
    let answer = get(admin, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// Clients that do nothing, and one that has taken one of twenty messages.
fn audience(gateway: &Gateway) -> Vec<RawClient> {
    let connect = |name: &str| RawClient::connected(gateway.address(), V5, name);
    let mut clients: Vec<_> = (0..5).map(|number| connect(&format!("lamp-{number}"))).collect();
    let mut slow = connect(SLOW);
    slow.send(&subscribe(V5, &["t"], 1));
    assert_eq!(slow.packet().0, 0x90, "SUBACK");
    let mut publisher = connect("publisher");
    for packet_id in 1..=20 {
        publisher.send(&publish(V5, "t", Some(packet_id), &[], b"x"));
        assert_eq!(publisher.packet().0, 0x40, "PUBACK");
    }
    assert_eq!(slow.packet().0 & 0xf0, 0x30, "PUBLISH");
    clients.extend([slow, publisher]);
    clients
}

/// Publishes what nobody is subscribed to, until told to end: without waiting for the disk, as the
/// browser, whose seconds pass fast, may look twice within a few milliseconds.
fn noise(mut loud: RawClient, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..20 {
            loud.send(&publish(V5, "noise", None, &[], b"x"));
        }
        loud.send(&[0xc0, 0]);
        assert_eq!(loud.packet().0, 0xd0, "PINGRESP");
    }
}

#[test]
fn the_page_shows_what_the_api_says_in_light_and_dark() {
    let limits = ["--limit", "connections_max=100", "--limit", "inflight_max=1"];
    let gateway = start(&[&["--shards", "2", "--gateway-id", "g7"], &limits[..]].concat());
    let admin = gateway.admin_address();
    let clients = audience(&gateway);
    let loud = RawClient::connected(gateway.address(), V5, "loud");
    // Once a second it is looked who is behind.
    while json_of(admin, "/api/v1/slowest")["rows"][0]["pending"] != 19 {}
    let overview = json_of(admin, "/api/v1/overview");
    assert_eq!(of_shards(&overview, "connections").sum::<u64>(), 8);
    let slowest = &json_of(admin, "/api/v1/slowest")["rows"][0];
    let is_over = AtomicBool::new(false);
    let pages: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| noise(loud, &is_over));
        let pages = [("light", "f6f7f5"), ("dark", "121615")];
        let pages = pages.map(|(scheme, ground)| (ground, browse(admin, scheme))).into();
        is_over.store(true, Ordering::Relaxed);
        pages
    });
    for (ground, drawn) in pages {
        let Some(drawn) = drawn else { return };
        assert_eq!(drawn.ground, ground);
        let sum = |key| of_shards(&overview, key).sum::<u64>();
        assert_eq!(drawn.text("name", "h1"), "g7");
        assert_eq!(drawn.text("state", "span"), "running");
        assert_eq!(drawn.text("connections", "div"), sum("connections").to_string());
        let note = format!("of 100 · {} sessions", overview["sessions"]);
        assert_eq!(drawn.text("connections-note", "div"), note);
        assert_eq!(drawn.text("way", "div"), sum("in_flight").to_string());
        let note = format!("{} behind · {} dropped", sum("behind"), sum("dropped"));
        assert_eq!(drawn.text("way-note", "div"), note);
        assert_eq!(drawn.text("out", "div"), "0 /s");
        let rate = drawn.text("in", "div");
        assert!(rate.ends_with(" /s") && rate != "0 /s", "the loud one is heard: {rate}");
        assert!(drawn.text("memory", "div").ends_with(" MiB"));
        let shards = drawn.rows("shards");
        for (column, key) in
            [(1, "connections"), (7, "filters"), (8, "in_flight"), (9, "behind"), (10, "dropped")]
        {
            let shown: Vec<&str> = shards.iter().map(|row| &*row[column]).collect();
            let said: Vec<String> = of_shards(&overview, key).map(|n| n.to_string()).collect();
            assert_eq!(shown, said, "{key}");
        }
        let logs = drawn.rows("upstream");
        assert!(logs.len() == 2 && logs.iter().all(|row| row[2] == "good"), "{logs:?}");
        assert_eq!(drawn.rows("talkers")[0][0], "loud");
        let row = &drawn.rows("slowest")[0];
        assert_eq!(row[0], "slow &lt;b&gt;&amp;", "a client id is text");
        let said = ["lag", "in_flight", "pending"].map(|key| slowest[key].to_string());
        assert_eq!(row[1..4], said, "{slowest}");
        assert_eq!(drawn.dom.matches("class=\"a\"").count(), 2, "both charts");
        assert!(!drawn.dom.contains("NaN") && !drawn.dom.contains("undefined"), "{}", drawn.dom);
    }
    drop(clients);
    gateway.stop();
}

#[test]
fn the_page_shows_links_to_jetstream() {
    let server = NatsServer::start();
    let nats = format!("a=nats://{}", server.address());
    let mut gateway = start(&["--shards", "2", "--gateway-id", "g8", "--nats", &nats]);
    gateway.wait_for_lines("feed: live", 2);
    if let Some(drawn) = browse(gateway.admin_address(), "light") {
        assert_eq!(drawn.text("upstream-title", "h2"), "Upstream: links to JetStream");
        let links = drawn.rows("upstream");
        let shown: Vec<_> = links.iter().map(|row| [&*row[0], &row[1], &row[2], &row[3]]).collect();
        assert_eq!(shown, [["0", "0", "a", "good"], ["1", "0", "a", "good"]]);
        assert!(!drawn.dom.contains("NaN") && !drawn.dom.contains("undefined"), "{}", drawn.dom);
    }
    gateway.stop();
}
