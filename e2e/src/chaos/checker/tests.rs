//! Made-up histories: a right one passes, and each way to be wrong is found.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

const GUILD: u64 = 1;
const OWNER: u64 = 10;
const ALICE: u64 = 20;
const OPEN: u64 = 100;
const HIDDEN: u64 = 200;
const VIEW: u64 = 1 << 10;
/// GUILDS, GUILD_MEMBERS, GUILD_MESSAGES, MESSAGE_CONTENT.
const INTENTS: u32 = 1 | 1 << 1 | 1 << 9 | 1 << 15;

/// A run that is right until a test changes it: alice, a bot, in a guild with an open and a hidden
/// channel.
struct Run {
    base: Base,
    events: Vec<Logged>,
    records: Vec<Record>,
    bodies: std::collections::HashMap<u64, Body>,
    writes: Vec<Write>,
    stored: BTreeMap<u64, String>,
    troubles: Vec<Trouble>,
    s: u64,
    alive: bool,
}

impl Run {
    fn new() -> Self {
        let role = Role {
            name: "@everyone".into(),
            permissions: VIEW,
        };
        let overwrite = Overwrite {
            id: GUILD,
            of_member: false,
            allow: 0,
            deny: VIEW,
        };
        let hidden = Channel {
            overwrites: vec![overwrite],
            ..Channel::default()
        };
        let base = Base {
            seq: 5,
            owner: OWNER,
            roles: BTreeMap::from([(GUILD, role)]),
            channels: BTreeMap::from([(OPEN, Channel::default()), (HIDDEN, hidden)]),
            members: BTreeMap::from([(OWNER, vec![]), (ALICE, vec![])]),
        };
        Self {
            base,
            events: Vec::new(),
            records: Vec::new(),
            bodies: Default::default(),
            writes: Vec::new(),
            stored: BTreeMap::new(),
            troubles: Vec::new(),
            s: 0,
            alive: true,
        }
    }

    /// Numbers an event at the time that is 10 ms after the one before; its number.
    fn log(&mut self, kind: &'static str, d: &serde_json::Value) -> u64 {
        let seq = self.base.seq + 1 + self.events.len() as u64;
        self.events.push(Logged {
            seq,
            at: seq * 10,
            kind,
            body: d.to_string(),
            alt: None,
        });
        seq
    }

    fn message(&mut self, channel: u64, id: u64) -> u64 {
        let content = format!("message {id}");
        self.stored.insert(id, content.clone());
        self.writes.push(Write::Created {
            id,
            content: content.clone(),
        });
        let d = json!({
            "id": id.to_string(), "channel_id": channel.to_string(), "content": content,
            "author": {"id": OWNER.to_string()}, "guild_id": GUILD.to_string(),
        });
        self.log("MESSAGE_CREATE", &d)
    }

    /// Shows HIDDEN to everybody, or hides it.
    fn view(&mut self, is_shown: bool) -> u64 {
        let deny = if is_shown { 0 } else { VIEW };
        let overwrite = json!({
            "id": GUILD.to_string(), "type": 0, "allow": "0", "deny": deny.to_string(),
        });
        let d = json!({
            "id": HIDDEN.to_string(), "guild_id": GUILD.to_string(),
            "permission_overwrites": [overwrite],
        });
        self.log("CHANNEL_UPDATE", &d)
    }

    fn next_s(&mut self) -> u64 {
        self.s += 1;
        self.s
    }

    fn record(&mut self, at: Millis, what: What) {
        self.records.push(Record { at, what });
    }

    fn ready(&mut self) {
        self.s = 0;
        let s = self.next_s();
        let (node, pictures) = (0, Vec::new());
        self.record(55, What::Ready { s, node, pictures });
    }

    /// GUILD_CREATE of what alice sees at first, with these newest messages.
    fn snapshot(&mut self, open: Option<u64>) {
        let seen = Seen {
            topic: None,
            last: open,
        };
        let picture = Picture {
            guild: GUILD,
            channels: BTreeMap::from([(OPEN, seen)]),
            roles: self.base.roles.clone(),
            member_count: 2,
        };
        let s = self.next_s();
        let picture = Box::new(picture);
        self.record(10_000, What::Guild { s, picture });
    }

    /// Alice gets an event when all is in the log.
    fn deliver(&mut self, seq: u64) {
        self.deliver_at(10_000, seq);
    }

    fn deliver_at(&mut self, at: Millis, seq: u64) {
        let event = &self.events[(seq - self.base.seq - 1) as usize];
        let body = Body {
            t: event.kind.into(),
            d: event.body.clone(),
        };
        let said = fingerprint(&body.t, &body.d);
        self.bodies.insert(said, body);
        let s = self.next_s();
        self.record(at, What::Dispatch { s, said });
    }

    fn check(self) -> Verdict {
        check(&History {
            guilds: vec![GuildHistory {
                id: GUILD,
                base: self.base,
                events: self.events,
            }],
            sessions: vec![SessionHistory {
                name: "alice".into(),
                user: ALICE,
                intents: Some(INTENTS),
                records: self.records,
                alive: self.alive,
            }],
            writes: self.writes,
            stored: self.stored,
            troubles: self.troubles,
            bodies: self.bodies,
        })
    }

    /// The only kind that is found.
    fn finds(self) -> Option<Kind> {
        let verdict = self.check();
        let mut kinds = verdict.counts.keys().copied();
        let first = kinds.next();
        assert_eq!(kinds.next(), None, "{verdict}");
        first
    }
}

/// Ready, snapshot before everything, and three messages of which the middle one is hidden.
fn three() -> (Run, [u64; 3]) {
    let mut run = Run::new();
    run.ready();
    run.snapshot(None);
    let seqs = [
        run.message(OPEN, 1001),
        run.message(HIDDEN, 1002),
        run.message(OPEN, 1003),
    ];
    (run, seqs)
}

#[test]
fn a_right_run_is_clean() {
    let (mut run, [first, _, third]) = three();
    run.deliver(first);
    run.deliver(third);
    let verdict = run.check();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!((verdict.matched, verdict.snapshots), (2, 1));
}

#[test]
fn what_says_the_same_later_is_not_what_came() {
    let mut run = Run::new();
    run.ready();
    run.snapshot(None);
    let shown = run.view(true);
    let message = run.message(OPEN, 1001);
    let hidden = run.view(false);
    let again = run.view(true);
    let over = run.view(false);
    run.deliver_at(shown * 10 + 5, shown);
    // Owners say it once more to whom it begins to be shown.
    run.deliver_at(message * 10 + 5, shown);
    for seq in [message, hidden, again, over] {
        run.deliver(seq);
    }
    let verdict = run.check();
    assert!(verdict.is_clean(), "{verdict}");
}

/// A call that was repeated because its answer got lost: nobody can tell which of both the snapshot
/// has.
#[test]
fn an_event_that_is_there_twice_may_come_once_or_twice() {
    for times in [1, 2] {
        let mut run = Run::new();
        run.ready();
        run.snapshot(None);
        let d = json!({
            "id": OPEN.to_string(), "guild_id": GUILD.to_string(), "permission_overwrites": [],
        });
        let (_, second) = (run.log("CHANNEL_UPDATE", &d), run.log("CHANNEL_UPDATE", &d));
        let message = run.message(OPEN, 1001);
        for _ in 0..times {
            run.deliver(second);
        }
        run.deliver(message);
        assert_eq!(run.finds(), None, "{times} times");
    }
}

#[test]
fn what_never_came_is_lost() {
    let (mut run, [_, _, third]) = three();
    run.deliver(third);
    assert_eq!(run.finds(), Some(Kind::Lost));
}

#[test]
fn what_is_owed_at_the_end_is_lost() {
    let (mut run, [first, ..]) = three();
    run.deliver(first);
    assert_eq!(run.finds(), Some(Kind::Lost));
}

#[test]
fn who_is_away_at_the_end_is_owed_nothing_more() {
    let (mut run, [first, ..]) = three();
    run.deliver(first);
    run.alive = false;
    assert_eq!(run.finds(), None);
}

#[test]
fn between_a_snapshot_and_its_first_event_nothing_is_lost() {
    let mut run = Run::new();
    let before = [run.message(OPEN, 1001), run.message(OPEN, 1002)];
    run.ready();
    run.snapshot(Some(1001));
    let after = run.message(OPEN, 1003);
    run.deliver(after);
    let verdict = run.check();
    assert_eq!(verdict.count(Kind::Lost), 1, "{verdict}");
    assert!(verdict.evidence[0].text.contains(&before[1].to_string()));
}

#[test]
fn what_a_snapshot_had_comes_no_more() {
    let mut run = Run::new();
    let first = run.message(OPEN, 1001);
    run.ready();
    run.snapshot(Some(1001));
    run.deliver(first);
    assert_eq!(run.finds(), Some(Kind::Repeated));
}

#[test]
fn an_event_comes_once() {
    let (mut run, [first, _, third]) = three();
    run.deliver(first);
    run.deliver(third);
    run.deliver(first);
    assert_eq!(run.finds(), Some(Kind::Repeated));
}

#[test]
fn an_event_comes_in_order() {
    let (mut run, [first, _, third]) = three();
    run.deliver(third);
    run.deliver(first);
    assert_eq!(run.finds(), Some(Kind::Reordered));
}

#[test]
fn a_hidden_channels_message_is_leaked() {
    let (mut run, seqs) = three();
    seqs.into_iter().for_each(|seq| run.deliver(seq));
    assert_eq!(run.finds(), Some(Kind::Leaked));
}

#[test]
fn a_revocation_holds_from_its_number_on() {
    let mut run = Run::new();
    run.ready();
    run.snapshot(None);
    let shown = run.view(true);
    let (seen, hidden) = (run.message(HIDDEN, 1001), run.view(false));
    let unseen = run.message(HIDDEN, 1002);
    for seq in [shown, seen, hidden] {
        run.deliver(seq);
    }
    run.deliver(unseen);
    assert_eq!(run.finds(), Some(Kind::Leaked));
}

#[test]
fn who_gains_a_channel_gets_its_update() {
    let mut run = Run::new();
    run.ready();
    run.snapshot(None);
    run.view(true);
    let seen = run.message(HIDDEN, 1001);
    run.deliver(seen);
    run.alive = false;
    assert_eq!(run.finds(), Some(Kind::Lost));
}

#[test]
fn a_channel_that_its_viewer_was_not_told_of_is_found() {
    let mut run = Run::new();
    run.ready();
    run.snapshot(None);
    let shown = run.view(true);
    run.deliver(shown);
    assert_eq!(run.finds(), Some(Kind::WrongChannels));
}

#[test]
fn numbers_of_dispatches_have_no_gap_and_do_not_stand() {
    for (by, kind) in [(1, Kind::SilentGap), (-1, Kind::WrongS)] {
        let (mut run, [first, _, third]) = three();
        run.deliver(first);
        run.s = run.s.saturating_add_signed(by);
        run.deliver(third);
        assert_eq!(run.finds(), Some(kind));
    }
}

#[test]
fn a_torn_snapshot_is_found() {
    let mut run = Run::new();
    run.message(OPEN, 1001);
    run.ready();
    run.base.roles.clear();
    run.snapshot(Some(1001));
    run.base = Run::new().base;
    assert_eq!(run.finds(), Some(Kind::Torn));
}

#[test]
fn what_nobody_numbered_is_found() {
    let (mut run, [first, _, third]) = three();
    run.deliver(first);
    run.deliver(third);
    let body = Body {
        t: "MESSAGE_CREATE".into(),
        d: "{}".into(),
    };
    let (said, s) = (fingerprint(&body.t, &body.d), run.next_s());
    run.bodies.insert(said, body);
    run.record(10_000, What::Dispatch { s, said });
    assert_eq!(run.finds(), Some(Kind::Unknown));
}

#[test]
fn an_op_9_needs_a_fault() {
    let refused = |touches| {
        let (mut run, _) = three();
        run.record(10_500, What::Opened { node: 1 });
        run.record(10_600, What::Refused);
        run.alive = false;
        run.troubles.push(Trouble {
            from: 10_100,
            to: 10_400,
            label: "a fault".into(),
            touches,
        });
        run.check()
    };
    for touches in [Touches::Gateway(0), Touches::Gateway(1), Touches::Redis] {
        let verdict = refused(touches);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!(verdict.refused_by.get("a fault"), Some(&1));
    }
    for touches in [
        Touches::Gateway(2),
        Touches::Clients(0),
        Touches::Clients(1),
        Touches::Other,
    ] {
        assert_eq!(refused(touches).count(Kind::UnexplainedRefusal), 1);
    }
}

/// Whoever was asked before may have taken the session, and gone with it.
#[test]
fn a_fault_of_each_gateway_that_was_asked_explains_an_op_9() {
    for (fault_at, unexplained) in [(1, 0), (2, 0), (3, 1)] {
        let (mut run, _) = three();
        for node in [1, 2] {
            run.record(10_500, What::Opened { node });
            run.record(10_600, What::Ended { code: None });
        }
        run.record(10_700, What::Refused);
        run.alive = false;
        run.troubles.push(Trouble {
            from: 10_500,
            to: 10_600,
            label: "a fault".into(),
            touches: Touches::Gateway(fault_at),
        });
        let verdict = run.check();
        assert_eq!(verdict.count(Kind::UnexplainedRefusal), unexplained);
    }
}

#[test]
fn who_is_drained_away_is_counted_and_is_to_resume_elsewhere() {
    let drained = |next: usize| {
        let (mut run, [first, _, third]) = three();
        run.record(9_000, What::Opened { node: 0 });
        run.deliver(first);
        run.troubles.push(Trouble {
            from: 10_000,
            to: 14_000,
            label: "drain of gateway 0".into(),
            touches: Touches::Clients(0),
        });
        run.record(12_000, What::SentAway);
        run.record(12_000, What::Ended { code: None });
        run.record(12_500, What::Opened { node: next });
        let s = run.next_s();
        run.record(12_600, What::Resumed { s });
        run.deliver_at(12_700, third);
        // Not by the drain: it is over.
        run.record(15_000, What::SentAway);
        let verdict = run.check();
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.sent_away, verdict.drained), (2, 1));
        verdict.drained_resumed
    };
    assert_eq!(drained(1), 1);
    assert_eq!(drained(0), 0);
}

#[test]
fn a_promise_is_kept() {
    for broken in [
        Write::Created {
            id: 1009,
            content: "gone".into(),
        },
        Write::Edited {
            id: 1001,
            content: "gone".into(),
        },
        Write::Deleted { id: 1001 },
        Write::Marked {
            kind: "GUILD_ROLE_UPDATE",
            mark: "gone".into(),
        },
    ] {
        let (mut run, [first, _, third]) = three();
        run.deliver(first);
        run.deliver(third);
        run.writes.push(broken);
        let verdict = run.check();
        assert!(verdict.count(Kind::Unstored) > 0, "{verdict}");
    }
}

#[test]
fn a_nonce_makes_one_message() {
    let (mut run, [first, _, third]) = three();
    let again = run.log(
        "MESSAGE_CREATE",
        &json!({
            "id": "1004", "channel_id": OPEN.to_string(), "content": "message 1003",
            "author": {"id": OWNER.to_string()},
        }),
    );
    for seq in [first, third, again] {
        run.deliver(seq);
    }
    assert_eq!(run.finds(), Some(Kind::Doubled));
}

#[test]
fn a_hole_in_the_log_is_found() {
    let (mut run, _) = three();
    run.alive = false;
    run.events.remove(1);
    run.writes.clear();
    run.stored.clear();
    assert_eq!(run.finds(), Some(Kind::NotDense));
}

#[test]
fn a_guild_that_never_comes_is_found() {
    let mut run = Run::new();
    run.ready();
    assert_eq!(run.finds(), Some(Kind::WrongGuilds));
}
