//! Requests and answers in exact bytes, as nats-server 2.12.0 and 2.15.1 exchange them.

use super::*;
use crate::upstream::jetstream::stored::StoreTime;

fn subject(text: &str) -> Subject<'_> {
    Subject::filter(text).unwrap()
}

fn batch(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}

#[track_caller]
fn check_request(request: DirectGet<'_>, body: &str) {
    let mut out = Vec::new();
    request.encode(subject("$JS.API.DIRECT.GET.P"), subject("_GW.7"), &mut out);
    let expected = format!("PUB $JS.API.DIRECT.GET.P _GW.7 {}\r\n{body}\r\n", body.len());
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn writes_requests() {
    let from = Sequence(2);
    let one = subject("mqtt.a");
    check_request(DirectGet::Next { subject: one, from }, r#"{"seq":2,"next_by_subj":"mqtt.a"}"#);
    check_request(
        DirectGet::Last { subject: subject("mqtt.\"\\") },
        r#"{"last_by_subj":"mqtt.\"\\"}"#,
    );
    check_request(
        DirectGet::Scan {
            from: Start::At(from),
            subject: None,
            batch: batch(1_000),
            bytes_max: None,
        },
        r#"{"seq":2,"batch":1000}"#,
    );
    check_request(
        DirectGet::Scan {
            from: Start::At(from),
            subject: Some(one),
            batch: batch(2),
            bytes_max: Some(10),
        },
        r#"{"seq":2,"batch":2,"next_by_subj":"mqtt.a","max_bytes":10}"#,
    );
    check_request(
        since(1_500_000_000),
        r#"{"start_time":"1970-01-01T00:00:01.500000000Z","batch":9}"#,
    );
    check_request(
        DirectGet::LastOfEach { subjects: &[one, subject("mqtt.b.>")], up_to: None, batch: None },
        r#"{"multi_last":["mqtt.a","mqtt.b.>"]}"#,
    );
    check_request(
        DirectGet::LastOfEach { subjects: &[one], up_to: Some(from), batch: Some(batch(9)) },
        r#"{"multi_last":["mqtt.a"],"up_to_seq":2,"batch":9}"#,
    );
}

const PLACE: &str = "Nats-Stream: P\r\nNats-Subject: mqtt.a\r\nNats-Sequence: 2\r\n\
    Nats-Time-Stamp: 1970-01-01T00:00:00.000000001Z\r\n";
const IN_BATCH: &str = "Nats-Num-Pending: 3\r\nNats-Last-Sequence: 1\r\n";

fn next(from: u64) -> DirectGet<'static> {
    DirectGet::Next { subject: Subject::from_checked(b"mqtt.a"), from: Sequence(from) }
}

fn scan(from: u64) -> DirectGet<'static> {
    let from = Start::At(Sequence(from));
    DirectGet::Scan { from, subject: None, batch: batch(9), bytes_max: None }
}

fn since(nanos: u64) -> DirectGet<'static> {
    let from = Start::Since(StoreTime(nanos));
    DirectGet::Scan { from, subject: None, batch: batch(9), bytes_max: None }
}

fn message(in_batch: bool) -> Answer<'static> {
    Answer::Message(Stored {
        stream: b"P",
        subject: b"mqtt.a",
        sequence: Sequence(2),
        stored_at: StoreTime(1),
        last_sequence: in_batch.then_some(Sequence(1)),
        pending_count: in_batch.then_some(3),
    })
}

#[track_caller]
fn check(request: DirectGet<'_>, block: &str, expected: Result<Answer<'_>, InvalidAnswer>) {
    assert_eq!(request.read(Headers::from_block(block.as_bytes()), b""), expected, "{block}");
}

#[test]
fn reads_messages_that_were_asked_for() {
    let one = format!("NATS/1.0\r\n{PLACE}\r\n");
    let of_batch = format!("NATS/1.0\r\nx: y\r\n{PLACE}{IN_BATCH}\r\n");
    check(next(1), &one, Ok(message(false)));
    check(next(2), &one, Ok(message(false)));
    check(DirectGet::Last { subject: subject("mqtt.a") }, &one, Ok(message(false)));
    check(scan(2), &of_batch, Ok(message(true)));
    check(since(1), &of_batch, Ok(message(true)));
    let subjects = [subject("mqtt.b"), subject("mqtt.*")];
    let up_to = Some(Sequence(2));
    check(
        DirectGet::LastOfEach { subjects: &subjects, up_to, batch: None },
        &of_batch,
        Ok(message(true)),
    );
}

/// A server that does not know a member of the request answers as if it were not there.
#[test]
fn refuses_messages_that_were_not_asked_for() {
    let one = format!("NATS/1.0\r\n{PLACE}\r\n");
    let of_batch = format!("NATS/1.0\r\n{PLACE}{IN_BATCH}\r\n");
    let not_asked_for = Err(InvalidAnswer::NotAskedFor);
    check(next(3), &one, not_asked_for);
    let other = subject("mqtt.b");
    check(DirectGet::Next { subject: other, from: Sequence(1) }, &one, not_asked_for);
    check(DirectGet::Last { subject: other }, &one, not_asked_for);
    check(scan(3), &of_batch, not_asked_for);
    check(since(2), &of_batch, not_asked_for);
    let filtered = DirectGet::Scan {
        from: Start::At(Sequence(1)),
        subject: Some(other),
        batch: batch(1),
        bytes_max: None,
    };
    check(filtered, &of_batch, not_asked_for);
    let subjects = [subject("mqtt.a")];
    let up_to = Some(Sequence(1));
    check(
        DirectGet::LastOfEach { subjects: &subjects, up_to, batch: None },
        &of_batch,
        not_asked_for,
    );
    check(scan(1), &one, Err(InvalidAnswer::OtherKind));
    check(next(1), &of_batch, Err(InvalidAnswer::OtherKind));
}

#[test]
fn reads_statuses() {
    let end = "NATS/1.0 204 EOB\r\nNats-Num-Pending: 2\r\nNats-Last-Sequence: 5\r\n";
    let pending_count = 2;
    let last_sequence = Sequence(5);
    check(scan(1), &format!("{end}\r\n"), {
        Ok(Answer::End { pending_count, last_sequence, up_to: None })
    });
    let subjects = [subject("mqtt.>")];
    let each = DirectGet::LastOfEach { subjects: &subjects, up_to: None, batch: None };
    let up_to = Some(Sequence(4));
    check(each, &format!("{end}Nats-UpTo-Sequence: 4\r\n\r\n"), {
        Ok(Answer::End { pending_count, last_sequence, up_to })
    });
    check(each, "NATS/1.0 404 No Results\r\n\r\n", Ok(Answer::NotFound));
    check(each, "NATS/1.0 413 Too Many Results\r\n\r\n", Ok(Answer::TooManyResults));
    check(next(1), "NATS/1.0 404 Message Not Found\r\n\r\n", Ok(Answer::NotFound));
    let nobody = "NATS/1.0 503\r\nNats-Subject: $JS.API.DIRECT.GET.P\r\n\r\n";
    check(next(1), nobody, Ok(Answer::NoResponders));
    check(next(1), "NATS/1.0 408 Empty Request\r\n\r\n", Err(InvalidAnswer::Status { code: 408 }));
    check(next(1), &format!("{end}\r\n"), Err(InvalidAnswer::Status { code: 204 }));
    check(scan(1), "NATS/1.0 413 x\r\n\r\n", Err(InvalidAnswer::Status { code: 413 }));
    check(each, &format!("{end}\r\n"), Err(InvalidAnswer::End { header: "Nats-UpTo-Sequence" }));
    let no_count = "NATS/1.0 204 EOB\r\nNats-Last-Sequence: 5\r\n\r\n";
    check(scan(1), no_count, Err(InvalidAnswer::End { header: "Nats-Num-Pending" }));
}

#[test]
fn what_has_no_place_is_no_message() {
    check(next(1), "", Err(InvalidAnswer::NotStored(NotStored::NoStream)));
    check(next(1), "NATS/1.0\r\n\r\n", Err(InvalidAnswer::NotStored(NotStored::NoStream)));
    let missing = NotStored::Missing { header: "Nats-Subject" };
    check(next(1), "NATS/1.0\r\nNats-Stream: P\r\n\r\n", Err(InvalidAnswer::NotStored(missing)));
}

/// A publisher may write any first line; the server's own headers decide.
#[test]
fn a_stored_message_is_no_status() {
    let block = format!("NATS/1.0 404 Message Not Found\r\n{PLACE}\r\n");
    check(next(1), &block, Ok(message(false)));
    let headers = Headers::from_block(b"NATS/1.0 404 x\r\n\r\n");
    let got = next(1).read(headers, b"payload");
    assert_eq!(got, Err(InvalidAnswer::NotStored(NotStored::NoStream)));
}
