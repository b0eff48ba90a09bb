use super::*;

const LEASE: LeaseLimits =
    LeaseLimits { renew: Duration::from_secs(5), timeout: Duration::from_secs(20) };

/// Attempts to connect that fail make it no shorter.
#[test]
fn a_link_is_away_from_when_it_was_lost() {
    let owner = Owner { gateway: "g".into(), shard: 0, boot: 1 };
    let mut sessions = Sessions::new(owner, 10, LEASE);
    sessions.add_home();
    let at = |seconds: u64| Timestamp(1_000_000 + 1_000 * seconds);
    sessions.attach(0, 1, at(0));
    for seconds in [10, 60, 130] {
        sessions.lose(0, at(seconds));
        assert_eq!(sessions.homes[0].lost_at, Some(at(10)));
    }
    sessions.attach(0, 2, at(140));
    assert_eq!(sessions.homes[0].lost_at, None);
    sessions.lose(0, at(150));
    assert_eq!(sessions.homes[0].lost_at, Some(at(150)));
}
