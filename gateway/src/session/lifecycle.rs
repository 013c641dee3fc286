//! The life of one connection: when it must say what, and when it ends.
//!
//! A state machine without socket, clock or task: inputs and `now` go in, outputs come out.
//! Spec: gateway.md › Connection, IDENTIFY, RESUME, Close codes.

use std::time::{Duration, Instant};

use guildhall_shared::gateway::{CloseCode, HEARTBEAT_INTERVAL_MS};

use super::limit::CommandLimit;
use crate::codec::{Command, Identify, Resume};

/// A client that sends neither IDENTIFY nor RESUME for this long is closed with 4009.
pub const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(30);
/// An IDENTIFY or RESUME that is still being checked after this long was never answered, as by a
/// core that took no messages meanwhile: its client has to come again.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// A client silent for one and a half intervals has lost its connection without noticing.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(HEARTBEAT_INTERVAL_MS * 3 / 2);

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// HELLO was sent.
    AwaitingIdentify {
        since: Instant,
    },
    /// IDENTIFY or RESUME is being checked.
    Checking {
        since: Instant,
    },
    /// A session is attached.
    Live,
    Closed,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The client sent a payload; the error says how to close if it was none.
    Command(Result<Command, CloseCode>),
    /// The client sent a frame that is no command: a ping, a pong, a part of a message.
    Frame,
    /// IDENTIFY or RESUME succeeded.
    Accepted,
    /// IDENTIFY or RESUME was refused without closing: op 9 and another try.
    Invalid,
    /// IDENTIFY or RESUME was refused.
    Refused(CloseCode),
    /// Time went by.
    Timeout,
}

/// What the driver must do now.
#[derive(Debug)]
pub enum Output {
    /// The client has everything up to this `s`, if it said so.
    HeartbeatAck(Option<u64>),
    Identify(Box<Identify>),
    Resume(Box<Resume>),
    /// Anything else of an identified client.
    Command(Command),
    /// Op 9 with `d: false`.
    InvalidSession,
    Close(CloseCode),
}

/// See the module.
#[derive(Debug)]
pub struct Lifecycle {
    state: State,
    heartbeat_deadline: Instant,
    limit: CommandLimit,
}

impl Lifecycle {
    /// A connection to which HELLO was just sent.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::AwaitingIdentify { since: now },
            heartbeat_deadline: now + HEARTBEAT_TIMEOUT,
            limit: CommandLimit::new(now),
        }
    }

    /// Feeds one input; at most one thing is to be done.
    pub fn handle(&mut self, now: Instant, input: Input) -> Option<Output> {
        if self.state == State::Closed {
            return None;
        }
        match input {
            Input::Command(command) => self.command(now, command),
            Input::Frame if self.limit.take_frame(now) => None,
            Input::Frame => self.close(CloseCode::RateLimited),
            Input::Accepted => {
                self.state = State::Live;
                None
            }
            Input::Invalid => {
                self.state = State::AwaitingIdentify { since: now };
                Some(Output::InvalidSession)
            }
            Input::Refused(code) => self.close(code),
            Input::Timeout => self.timeout(now),
        }
    }

    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Neither IDENTIFY nor RESUME is under way or done.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::AwaitingIdentify { .. })
    }

    /// Whether [`Input::Timeout`] would do something now.
    pub fn is_due(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => false,
            State::AwaitingIdentify { since } if now >= since + IDENTIFY_TIMEOUT => true,
            State::Checking { since } if now >= since + CHECK_TIMEOUT => true,
            _ => now >= self.heartbeat_deadline,
        }
    }

    fn command(&mut self, now: Instant, command: Result<Command, CloseCode>) -> Option<Output> {
        if !self.limit.take(now) {
            return self.close(CloseCode::RateLimited);
        }
        match (self.state, command) {
            (_, Ok(Command::Heartbeat(seq))) => {
                self.heartbeat_deadline = now + HEARTBEAT_TIMEOUT;
                Some(Output::HeartbeatAck(seq))
            }
            (State::AwaitingIdentify { .. }, Ok(Command::Identify(identify))) => {
                self.state = State::Checking { since: now };
                Some(Output::Identify(identify))
            }
            (State::AwaitingIdentify { .. }, Ok(Command::Resume(resume))) => {
                self.state = State::Checking { since: now };
                Some(Output::Resume(resume))
            }
            (State::AwaitingIdentify { .. }, Ok(Command::Unfit(code))) => self.close(code),
            // However malformed it is.
            (
                State::Checking { .. } | State::Live,
                Ok(Command::Identify(_) | Command::Resume(_) | Command::Unfit(_)),
            ) => self.close(CloseCode::AlreadyAuthenticated),
            (State::Live, Ok(Command::Malformed(code))) => self.close(code),
            (State::Live, Ok(command)) => Some(Output::Command(command)),
            (State::AwaitingIdentify { .. } | State::Checking { .. }, Ok(_)) => {
                self.close(CloseCode::NotAuthenticated)
            }
            (_, Err(code)) => self.close(code),
            (State::Closed, Ok(_)) => None,
        }
    }

    fn timeout(&mut self, now: Instant) -> Option<Output> {
        match self.state {
            State::AwaitingIdentify { since } if now >= since + IDENTIFY_TIMEOUT => {
                self.close(CloseCode::SessionTimedOut)
            }
            State::Checking { since } if now >= since + CHECK_TIMEOUT => {
                self.close(CloseCode::UnknownError)
            }
            _ if now >= self.heartbeat_deadline => self.close(CloseCode::UnknownError),
            _ => None,
        }
    }

    fn close(&mut self, code: CloseCode) -> Option<Output> {
        self.state = State::Closed;
        Some(Output::Close(code))
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::token::Token;
    use proptest::prelude::*;

    use super::*;
    use crate::session::limit::COMMANDS_MAX;

    fn identify() -> Input {
        let token = Token::parse("MQ.b.c").unwrap();
        Input::Command(Ok(Command::Identify(Box::new(Identify {
            token,
            intents: None,
            shard: None,
            unfit: None,
            large_threshold: None,
            capabilities: Default::default(),
            compress: false,
            platform: guildhall_shared::model::Platform::Web,
            presence: None,
        }))))
    }

    fn resume() -> Input {
        let token = Token::parse("MQ.b.c").unwrap();
        Input::Command(Ok(Command::Resume(Box::new(Resume {
            token,
            session_id: String::new(),
            seq: 1,
        }))))
    }

    fn heartbeat() -> Input {
        Input::Command(Ok(Command::Heartbeat(None)))
    }

    fn closed_with(output: Option<Output>) -> Option<CloseCode> {
        match output {
            Some(Output::Close(code)) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn a_silent_client_is_closed_resumably() {
        let t0 = Instant::now();
        let mut life = Lifecycle::new(t0);
        life.handle(t0, identify());
        life.handle(t0, Input::Accepted);
        assert!(
            life.handle(
                t0 + HEARTBEAT_TIMEOUT - Duration::from_millis(1),
                Input::Timeout
            )
            .is_none()
        );
        let code = closed_with(life.handle(t0 + HEARTBEAT_TIMEOUT, Input::Timeout)).unwrap();
        assert!(code.is_resumable());
    }

    #[test]
    fn a_client_that_never_identifies_is_closed_with_4009() {
        let t0 = Instant::now();
        let mut life = Lifecycle::new(t0);
        life.handle(t0 + Duration::from_secs(29), heartbeat());
        let code = closed_with(life.handle(t0 + IDENTIFY_TIMEOUT, Input::Timeout));
        assert_eq!(code, Some(CloseCode::SessionTimedOut));
    }

    #[test]
    fn a_client_that_is_never_answered_is_closed_resumably() {
        let t0 = Instant::now();
        for command in [identify, resume] {
            let mut life = Lifecycle::new(t0);
            life.handle(t0, command());
            let before = t0 + CHECK_TIMEOUT - Duration::from_secs(1);
            life.handle(before, heartbeat());
            assert!(!life.is_due(before));
            let late = t0 + CHECK_TIMEOUT;
            assert!(life.is_due(late));
            let code = closed_with(life.handle(late, Input::Timeout)).unwrap();
            assert!(code.is_resumable());
            assert!(life.handle(late, Input::Accepted).is_none());
            assert!(!life.is_live());
        }
    }

    #[test]
    fn after_op_9_the_client_may_identify_again() {
        let t0 = Instant::now();
        let mut life = Lifecycle::new(t0);
        assert!(matches!(life.handle(t0, resume()), Some(Output::Resume(_))));
        assert!(matches!(
            life.handle(t0, Input::Invalid),
            Some(Output::InvalidSession)
        ));
        assert!(matches!(
            life.handle(t0, identify()),
            Some(Output::Identify(_))
        ));
        assert!(life.handle(t0, Input::Accepted).is_none());
        assert!(life.is_live());
        assert_eq!(
            closed_with(life.handle(t0, identify())),
            Some(CloseCode::AlreadyAuthenticated)
        );
    }

    #[test]
    fn a_second_identify_is_that_however_malformed() {
        let t0 = Instant::now();
        let unfit = |code| Input::Command(Ok(Command::Unfit(code)));
        for code in [CloseCode::DecodeError, CloseCode::AuthenticationFailed] {
            let first = Lifecycle::new(t0).handle(t0, unfit(code));
            assert_eq!(closed_with(first), Some(code));
            for is_live in [false, true] {
                let mut life = Lifecycle::new(t0);
                life.handle(t0, identify());
                if is_live {
                    life.handle(t0, Input::Accepted);
                }
                let second = closed_with(life.handle(t0, unfit(code)));
                assert_eq!(second, Some(CloseCode::AlreadyAuthenticated));
            }
        }
    }

    #[test]
    fn commands_before_identify_are_not_authenticated() {
        let t0 = Instant::now();
        for command in [Command::Other, Command::Malformed(CloseCode::DecodeError)] {
            let code = closed_with(Lifecycle::new(t0).handle(t0, Input::Command(Ok(command))));
            assert_eq!(code, Some(CloseCode::NotAuthenticated));
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Heartbeat,
        Identify,
        Resume,
        Other,
        Bad,
        Accepted,
        Invalid,
        Refused,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Heartbeat),
            2 => Just(Step::Identify),
            2 => Just(Step::Resume),
            2 => Just(Step::Other),
            1 => Just(Step::Bad),
            2 => Just(Step::Accepted),
            1 => Just(Step::Invalid),
            1 => Just(Step::Refused),
            3 => (0u64..40_000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Over any inputs and times: it closes at most once and then says nothing; it is live only
        /// after being accepted; heartbeats are answered as long as it is open; it never lets more
        /// commands through in a window than allowed; and a silent client never stays.
        #[test]
        fn the_rules_hold_over_any_history(steps in prop::collection::vec(step(), 0..300)) {
            let mut now = Instant::now();
            let mut life = Lifecycle::new(now);
            let (mut closed, mut asked, mut accepted) = (false, false, false);
            let mut last_heartbeat = now;
            let mut window = (now, 0u32);
            for step in steps {
                let is_command = matches!(step, Step::Heartbeat | Step::Identify | Step::Resume | Step::Other | Step::Bad);
                if is_command && !closed {
                    if now.duration_since(window.0) >= Duration::from_secs(60) {
                        window = (now, 0);
                    }
                    window.1 += 1;
                }
                let input = match step {
                    Step::Heartbeat => heartbeat(),
                    Step::Identify => identify(),
                    Step::Resume => resume(),
                    Step::Other => Input::Command(Ok(Command::Other)),
                    Step::Bad => Input::Command(Err(CloseCode::DecodeError)),
                    // The driver answers only what it was asked.
                    Step::Accepted if asked => Input::Accepted,
                    Step::Invalid if asked => Input::Invalid,
                    Step::Refused if asked => Input::Refused(CloseCode::AuthenticationFailed),
                    Step::Accepted | Step::Invalid | Step::Refused => continue,
                    Step::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        Input::Timeout
                    }
                };
                if matches!(input, Input::Accepted) && !closed {
                    accepted = true;
                }
                if !is_command && !matches!(input, Input::Timeout) {
                    asked = false;
                }
                let was_heartbeat = matches!(input, Input::Command(Ok(Command::Heartbeat(_))));
                let was_timeout = matches!(input, Input::Timeout);
                let output = life.handle(now, input);
                if closed {
                    prop_assert!(output.is_none());
                    continue;
                }
                match &output {
                    Some(Output::Identify(_) | Output::Resume(_)) => {
                        prop_assert!(!asked && !accepted);
                        asked = true;
                    }
                    Some(Output::Close(_)) => closed = true,
                    _ => {}
                }
                if window.1 > u32::from(COMMANDS_MAX) {
                    prop_assert!(closed);
                }
                if was_heartbeat && !closed {
                    prop_assert!(matches!(output, Some(Output::HeartbeatAck(_))));
                    last_heartbeat = now;
                }
                if was_timeout {
                    prop_assert!(closed || now < last_heartbeat + HEARTBEAT_TIMEOUT);
                }
                prop_assert!(!life.is_live() || accepted);
            }
        }
    }
}
