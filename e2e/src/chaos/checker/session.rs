//! One client's frames against the logs of its guilds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{
    History, Kind, Logs, Millis, Picture, Record, SessionHistory, Touches, Verdict, What,
    guild::{Guild, Who, number},
};

/// A fault that ended so long before a session's last sign of life does not explain its op 9.
const AFTERMATH_MS: Millis = 15_000;
/// What owners make for single users when their view of a channel begins or ends. It may say
/// what an event of the log said before.
const MADE_BY_OWNERS: [&str; 5] = [
    "CHANNEL_CREATE",
    "CHANNEL_UPDATE",
    "CHANNEL_DELETE",
    "THREAD_LIST_SYNC",
    "VOICE_STATE_UPDATE",
];
/// Not numbered, or of a user's own realm.
const NOT_LOGGED: [&str; 9] = [
    "PRESENCE_UPDATE",
    "TYPING_START",
    "SESSIONS_REPLACE",
    "READY_SUPPLEMENTAL",
    "MESSAGE_ACK",
    "GUILD_MEMBERS_CHUNK",
    "CHANNEL_UNREAD_UPDATE",
    "PASSIVE_UPDATE_V1",
    "PASSIVE_UPDATE_V2",
];

/// A guild in a session, from a snapshot on.
#[derive(Debug)]
struct Run {
    /// Where the snapshot may have been taken.
    places: Vec<(u64, u64)>,
    /// Newest event got, once there is one.
    cursor: Option<u64>,
    /// What the first event got says, and how many before it say the same, of which the snapshot
    /// may or may not know.
    doubles: (u64, usize),
    /// Passed over, though they were owed.
    missing: BTreeMap<u64, Millis>,
    /// Channels as the client knows them.
    channels: BTreeSet<u64>,
}

impl Run {
    /// The first event after the snapshot, which says what `seqs` say, and where the snapshot was
    /// taken then. Of several that can be it, the last: what comes before it would be known.
    fn first(&mut self, guild: &Guild, who: Who, (seqs, until): (&[u64], u64)) -> Option<u64> {
        let mut found: Option<(u64, u64)> = None;
        for &seq in seqs.iter().filter(|seq| **seq <= until) {
            let Some(start) = self.start_before(seq) else {
                continue;
            };
            if let Some((_, last)) = found {
                let passed = guild.between(start, seq);
                if start < last || passed.iter().any(|event| guild.owes(who, event, until)) {
                    break;
                }
                self.doubles.1 += 1;
            }
            found = Some((start, seq));
        }
        found.map(|(start, _)| start)
    }

    /// The last number before an event at which the snapshot may have been taken.
    fn start_before(&self, seq: u64) -> Option<u64> {
        let places = self.places.iter().rev();
        places
            .filter(|(low, _)| *low < seq)
            .map(|(_, high)| (*high).min(seq - 1))
            .next()
    }
}

struct Walk<'a> {
    of: &'a SessionHistory,
    who: Who,
    history: &'a History,
    logs: &'a Logs,
    verdict: &'a mut Verdict,
    runs: HashMap<u64, Run>,
    s: Option<u64>,
    /// Has the session.
    home: Option<usize>,
    /// Was asked last.
    asked: Option<usize>,
    /// All that were asked since the session last went on: any of them may have taken it.
    tried: BTreeSet<usize>,
    /// Was being drained when it sent the client away, which has not gone on since.
    drained_by: Option<usize>,
    /// Last sign of life of the session.
    last_sign: Millis,
    /// When what is looked at came.
    now: Millis,
}

pub(super) fn check(of: &SessionHistory, history: &History, logs: &Logs, verdict: &mut Verdict) {
    let mut walk = Walk {
        of,
        who: Who {
            user: of.user,
            intents: of.intents,
        },
        history,
        logs,
        verdict,
        runs: HashMap::new(),
        s: None,
        home: None,
        asked: None,
        tried: BTreeSet::new(),
        drained_by: None,
        last_sign: 0,
        now: 0,
    };
    for record in &of.records {
        walk.take(record);
    }
    walk.finish();
}

impl Walk<'_> {
    fn find(&mut self, kind: Kind, text: String) {
        self.verdict.find_at(kind, &self.of.name, self.now, text);
    }

    fn take(&mut self, record: &Record) {
        let at = record.at;
        self.now = at;
        match &record.what {
            What::Opened { node } => {
                self.asked = Some(*node);
                self.tried.insert(*node);
            }
            What::Ready { s, node, pictures } => {
                self.verdict.readies += 1;
                self.went_on();
                self.close_all();
                self.s = None;
                self.count_s(*s, "READY");
                self.home = Some(*node);
                self.last_sign = at;
                for picture in pictures {
                    self.begin(picture, at);
                }
            }
            What::Resumed { s } => {
                self.verdict.resumed += 1;
                if let Some(before) = self.went_on()
                    && Some(before) != self.asked
                {
                    self.verdict.drained_resumed += 1;
                }
                self.home = self.asked;
                self.count_s(*s, "RESUMED");
                self.last_sign = at;
            }
            What::Guild { s, picture } => {
                self.count_s(*s, "GUILD_CREATE");
                self.last_sign = at;
                self.begin(picture, at);
            }
            What::GuildGone { s, guild } => {
                self.count_s(*s, "GUILD_DELETE");
                self.last_sign = at;
                // What the guild still had to say is not owed to who left it.
                self.close(*guild);
            }
            What::Dispatch { s, said } => {
                self.last_sign = at;
                self.dispatch(*s, *said, at);
            }
            What::Refused => {
                self.refused(at);
                self.went_on();
                self.s = None;
            }
            What::NotNow => {}
            What::SentAway => self.sent_away(at),
            What::Ended { code } => {
                *self.verdict.ends.entry(code.unwrap_or(0)).or_default() += 1;
                if let Some(code @ (4004 | 4010..=4014)) = code {
                    self.find(Kind::GivenUp, format!("closed with {code} at {at}"));
                }
            }
            What::Malformed(text) => self.find(Kind::Malformed, text.clone()),
        }
    }

    fn count_s(&mut self, s: u64, what: &str) {
        self.verdict.deliveries += 1;
        let due = self.s.map_or(1, |s| s + 1);
        if s > due {
            self.find(Kind::SilentGap, format!("{what}: s is {s}, {due} was due"));
        } else if s < due {
            self.find(Kind::WrongS, format!("{what}: s is {s}, {due} was due"));
        }
        self.s = Some(s);
    }

    /// A snapshot came.
    fn begin(&mut self, picture: &Picture, at: Millis) {
        self.close(picture.guild);
        let Some(guild) = self.logs.guilds.get(&picture.guild) else {
            return; // of somebody else's making
        };
        let head = guild.committed_by(at);
        let mut places = guild.places_of(self.who.user, picture);
        places.retain(|(low, _)| *low <= head);
        if let Some((_, high)) = places.last_mut() {
            *high = (*high).min(head);
        }
        if places.is_empty() {
            let text = format!("guild {} at about {head}: {picture:?}", picture.guild);
            self.find(Kind::Torn, text);
        } else {
            self.verdict.snapshots += 1;
        }
        let run = Run {
            places,
            cursor: None,
            doubles: (0, 0),
            missing: BTreeMap::new(),
            channels: picture.channels.keys().copied().collect(),
        };
        self.runs.insert(picture.guild, run);
    }

    fn close_all(&mut self) {
        let guilds: Vec<u64> = self.runs.keys().copied().collect();
        for guild in guilds {
            self.close(guild);
        }
    }

    /// What was passed over will not come any more.
    fn close(&mut self, id: u64) {
        let Some(run) = self.runs.remove(&id) else {
            return;
        };
        let Some(guild) = self.logs.guilds.get(&id) else {
            return;
        };
        for (seq, at) in run.missing {
            self.lost(guild, seq, at);
        }
    }

    fn lost(&mut self, guild: &Guild, seq: u64, at: Millis) {
        let kind = guild.event(seq).map_or("?", |event| event.kind);
        let when = match at {
            Millis::MAX => "owed at the end".to_owned(),
            at => format!("passed over at {at}"),
        };
        let text = format!("guild {} {seq} {kind}, {when}", guild.id);
        self.find(Kind::Lost, text);
    }

    fn dispatch(&mut self, s: u64, said: u64, at: Millis) {
        let body = self.history.bodies.get(&said);
        let t = body.map_or("?", |body| body.t.as_str());
        self.count_s(s, t);
        let logs = self.logs;
        let found = logs.index.iter().find_map(|(guild, index)| {
            let seqs = index.get(&said)?;
            Some((logs.guilds.get(guild)?, seqs))
        });
        match found {
            Some((guild, seqs)) => {
                self.verdict.matched += 1;
                self.event(guild, seqs, said, t, at);
            }
            None => self.not_logged(t, said, at),
        }
    }

    /// An event of the log came; `seqs` are the numbers under which it says what came.
    fn event(&mut self, guild: &Guild, seqs: &[u64], said: u64, t: &str, at: Millis) {
        let until = guild.committed_by(at);
        let Some(run) = self.runs.get_mut(&guild.id) else {
            let text = format!("guild {} {seqs:?} {t} without its snapshot", guild.id);
            let kind = match guild.is_member(self.who.user, until) {
                true => Kind::Repeated,
                false => Kind::Leaked,
            };
            return self.find(kind, text);
        };
        let cursor = match run.cursor {
            Some(cursor) => Some(cursor),
            None => {
                run.doubles.0 = said;
                let later = run.first(guild, self.who, (seqs, until));
                // Of a snapshot that is right nowhere: from here on.
                let anywhere = run.places.is_empty().then(|| seqs[0] - 1);
                later.or(anywhere)
            }
        };
        // What says the same again later is not what came.
        let next = cursor.and_then(|cursor| {
            let mut seqs = seqs.iter();
            seqs.find(|seq| **seq > cursor && **seq <= until)
        });
        let (Some(cursor), Some(&seq)) = (cursor, next) else {
            if run.doubles.0 == said && run.doubles.1 > 0 {
                run.doubles.1 -= 1;
                return;
            }
            if MADE_BY_OWNERS.contains(&t) {
                return self.made_by_owner(guild, t, said, at);
            }
            let late = seqs.iter().find(|seq| run.missing.remove(seq).is_some());
            let (kind, seq) = match late {
                Some(seq) => (Kind::Reordered, *seq),
                None => (Kind::Repeated, seqs[seqs.len() - 1]),
            };
            let text = format!(
                "guild {} {seq} {t} after {cursor:?} (snapshot within {:?}) at {at}",
                guild.id, run.places
            );
            return self.find(kind, text);
        };
        for passed in guild.between(cursor, seq) {
            if guild.owes(self.who, passed, until) {
                run.missing.insert(passed.seq, at);
            }
        }
        run.cursor = Some(seq);
        let Some(event) = guild.event(seq) else {
            return;
        };
        self.follow_channels(guild.id, t, said);
        if let Some(why) = guild.forbids(self.who, event, said, until) {
            let text = format!(
                "guild {} {seq} {t} at {at}, realm at {until}: {why}",
                guild.id
            );
            self.find(Kind::Leaked, text);
        }
    }

    /// A dispatch that no event of the log stands for.
    fn not_logged(&mut self, t: &str, said: u64, at: Millis) {
        if NOT_LOGGED.contains(&t) {
            return;
        }
        let d = self.said(said);
        let guild = self.logs.guilds.get(&number(&d["guild_id"]));
        match guild {
            Some(guild) if MADE_BY_OWNERS.contains(&t) => self.made_by_owner(guild, t, said, at),
            _ => {
                let text = format!("{t} at {at}: {d}");
                self.find(Kind::Unknown, text);
            }
        }
    }

    fn made_by_owner(&mut self, guild: &Guild, t: &str, said: u64, at: Millis) {
        let d = self.said(said);
        let channel = match t {
            "CHANNEL_CREATE" | "CHANNEL_UPDATE" | "CHANNEL_DELETE" => number(&d["id"]),
            _ => number(&d["channel_id"]),
        };
        let until = guild.committed_by(at);
        let since = self.runs.get(&guild.id).and_then(|run| run.cursor);
        let since = since.unwrap_or(guild.first - 1).saturating_sub(1);
        let is_end = t == "CHANNEL_DELETE";
        if !is_end && !guild.ever_sees(self.who.user, channel, since, until) {
            let text = format!("guild {} {t} of {channel}, hidden since {since}", guild.id);
            self.find(Kind::Leaked, text);
        }
        self.follow_channels(guild.id, t, said);
    }

    fn follow_channels(&mut self, guild: u64, t: &str, said: u64) {
        if !matches!(t, "CHANNEL_CREATE" | "CHANNEL_DELETE") {
            return;
        }
        let channel = number(&self.said(said)["id"]);
        if let Some(run) = self.runs.get_mut(&guild) {
            match t {
                "CHANNEL_CREATE" => run.channels.insert(channel),
                _ => run.channels.remove(&channel),
            };
        }
    }

    fn said(&self, said: u64) -> Value {
        let body = self.history.bodies.get(&said);
        body.and_then(|body| serde_json::from_str(&body.d).ok())
            .unwrap_or_default()
    }

    /// The client has a session again, or is to begin a new one; the gateway that sent it away
    /// before, if that was being drained.
    fn went_on(&mut self) -> Option<usize> {
        self.tried.clear();
        self.drained_by.take()
    }

    /// op 7.
    fn sent_away(&mut self, at: Millis) {
        self.verdict.sent_away += 1;
        let Some(by) = self.asked else { return };
        let mut troubles = self.history.troubles.iter();
        let drained = troubles.any(|trouble| {
            trouble.touches == Touches::Clients(by) && trouble.from <= at && at <= trouble.to
        });
        if drained {
            self.verdict.drained += 1;
            self.drained_by = Some(by);
        }
    }

    /// op 9: it must have been a fault.
    fn refused(&mut self, at: Millis) {
        self.verdict.refused += 1;
        let since = self.last_sign.saturating_sub(AFTERMATH_MS);
        let concerns = |touches: Touches| match touches {
            Touches::Gateway(node) if Some(node) == self.home => 4,
            Touches::Gateway(node) if self.tried.contains(&node) => 3,
            Touches::Redis => 2,
            Touches::Postgres => 1,
            Touches::Gateway(_) | Touches::Clients(_) | Touches::Other => 0,
        };
        let troubles = self.history.troubles.iter();
        let cause = troubles
            .filter(|trouble| trouble.from <= at && trouble.to >= since)
            .filter(|trouble| concerns(trouble.touches) > 0)
            .max_by_key(|trouble| concerns(trouble.touches));
        match cause {
            Some(trouble) => {
                let count = self.verdict.refused_by.entry(trouble.label.clone());
                *count.or_default() += 1;
            }
            None => {
                let text = format!(
                    "at {at}, session of gateway {:?}, asked {:?}, alive until {}",
                    self.home, self.tried, self.last_sign
                );
                self.find(Kind::UnexplainedRefusal, text);
            }
        }
    }

    /// The run is over and all is well: who is connected has everything.
    fn finish(&mut self) {
        if self.of.alive && self.s.is_some() {
            let logs = self.logs;
            for (id, guild) in &logs.guilds {
                self.has_everything(*id, guild);
            }
        }
        self.close_all();
    }

    fn has_everything(&mut self, id: u64, guild: &Guild) {
        let head = guild.head();
        let is_member = guild.is_member(self.who.user, head);
        let Some(run) = self.runs.get_mut(&id) else {
            if is_member {
                self.find(Kind::WrongGuilds, format!("guild {id} never came"));
            }
            return;
        };
        if !is_member {
            return self.find(Kind::WrongGuilds, format!("guild {id} never went"));
        }
        let start = run.cursor.or_else(|| run.start_before(head + 1));
        let Some(start) = start else { return };
        for passed in guild.between(start, head + 1) {
            if guild.owes(self.who, passed, head) {
                run.missing.insert(passed.seq, Millis::MAX);
            }
        }
        let sees = guild.seen_at(self.who.user, head);
        if sees != run.channels {
            let ghosts: Vec<&u64> = run.channels.difference(&sees).collect();
            let lacks: Vec<&u64> = sees.difference(&run.channels).collect();
            let text = format!(
                "guild {id}: channels that it does not see {ghosts:?}, that it lacks {lacks:?}"
            );
            self.find(Kind::WrongChannels, text);
        }
    }
}
