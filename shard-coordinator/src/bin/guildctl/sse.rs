//! Server-sent events: bytes in, the data of whole events out.

/// An event that grows beyond this is dropped with all before it; a snapshot of 200 nodes
/// has about 100 KB.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Takes a stream of events apart.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// Bytes of a line that has not ended yet.
    line: Vec<u8>,
    data: String,
    name: String,
}

/// One whole event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// An event longer than [`EVENT_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Parser {
    /// Appends the events that `bytes` complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                self.line_ended(line.trim_end_matches(['\r', '\n']), events);
            }
        }
        Ok(())
    }

    fn line_ended(&mut self, line: &str, events: &mut Vec<Event>) {
        if line.is_empty() {
            let event = Event {
                name: std::mem::take(&mut self.name),
                data: std::mem::take(&mut self.data),
            };
            if !event.data.is_empty() {
                events.push(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {} // comments keep the connection alive
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_arrive_whole_however_the_bytes_are_cut() {
        let text = ": hello\n\nevent: state\ndata: {\"a\":1}\n\nevent: state\r\ndata: x\r\ndata: y\r\n\r\n";
        let event = |data: &str| Event {
            name: "state".to_owned(),
            data: data.to_owned(),
        };
        for size in 1..text.len() {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for bytes in text.as_bytes().chunks(size) {
                parser.feed(bytes, &mut events).unwrap();
            }
            assert_eq!(
                events,
                [event("{\"a\":1}"), event("x\ny")],
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        let piece = vec![b'x'; EVENT_BYTES_MAX / 2 + 1];
        assert_eq!(parser.feed(&piece, &mut events), Ok(()));
        assert_eq!(parser.feed(&piece, &mut events), Err(TooLong));
    }
}
