//! [`Flight`]: statements that go to the server together and are answered together.
//!
//! All of them stand before *one* Sync message: after the first error the server skips everything up to it. So a batch
//! can begin with `BEGIN` and end with `COMMIT` in one flight, and nothing of it takes effect after an error.
//!
//! Parameters are text. Statements are unnamed, so that there is nothing on the server that could be missing in another
//! session of a pooler; where the session is ours alone, those that come again and again are [`Prepared`].

use std::time::Instant;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use crate::fault::Fault;
use crate::prepared::{self, Prepared};

/// Largest flight in bytes. The server takes up to 1 GiB in one message.
pub(crate) const FLIGHT_BYTES_MAX: usize = 256 << 20;

/// Largest answer to one flight.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A step of a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A statement, from its text to its answer.
    Statement,
    /// A statement is read, planned, and given its parameters: all but run.
    Bind,
    /// A bound one is run.
    Run,
}

/// Statements to send.
#[derive(Default)]
pub(crate) struct Flight {
    bytes: BytesMut,
    steps: Vec<Step>,
    /// For each statement that is to be read whether it is kept.
    reads: Vec<bool>,
    /// Those to be kept that are new.
    new: Vec<String>,
}

/// A statement's text, and where those are that the server has read already: there it is looked for, and it is kept.
/// Without that it is read for this once.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    pub(crate) prepared: Option<&'a Prepared>,
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self { text, prepared: None }
    }
}

impl Flight {
    /// Adds a statement with its parameters, `$1` first. `None` is NULL.
    ///
    /// # Errors
    /// When a text has a NUL byte, there are too many parameters or too many bytes: in words.
    pub(crate) fn add<'a>(
        &mut self,
        statement: impl Into<Text<'a>>,
        parameters: &[Option<&str>],
    ) -> Result<(), String> {
        self.prepare("", statement.into(), parameters)?;
        self.execute("")?;
        self.done(Step::Statement)
    }

    /// Has a statement bound to be run later in the same transaction: under this name, by [`Flight::run`].
    ///
    /// The server converts the parameters and plans, but looks at no row yet: that is so for statements that change
    /// something, and for no others.
    ///
    /// # Errors
    /// As [`Flight::add`].
    pub(crate) fn bind(
        &mut self,
        name: &str,
        statement: Text<'_>,
        parameters: &[Option<&str>],
    ) -> Result<(), String> {
        self.prepare(name, statement, parameters)?;
        self.done(Step::Bind)
    }

    /// Runs what was bound under this name.
    ///
    /// # Errors
    /// As [`Flight::add`].
    pub(crate) fn run(&mut self, name: &str) -> Result<(), String> {
        self.execute(name)?;
        self.done(Step::Run)
    }

    /// The name of the statement for the server, who is told its text if it does not have it.
    fn read(&mut self, Text { text, prepared }: Text<'_>) -> Result<String, String> {
        let (name, is_there) = match prepared {
            None => (String::new(), false),
            Some(prepared) => {
                let before = self.new.iter().position(|new| new == text);
                let there =
                    prepared.number_of(text, Instant::now()).or(before.map(|nth| prepared.new_number(nth)));
                let number = there.unwrap_or_else(|| prepared.new_number(self.new.len()));
                (prepared::name(number), there.is_some())
            }
        };
        if !is_there {
            frontend::parse(&name, text, std::iter::empty(), &mut self.bytes)
                .map_err(|error| error.to_string())?;
            self.reads.push(prepared.is_some());
            self.new.extend(prepared.map(|_| text.to_owned()));
        }
        Ok(name)
    }

    fn prepare(
        &mut self,
        portal: &str,
        statement: Text<'_>,
        parameters: &[Option<&str>],
    ) -> Result<(), String> {
        let name = self.read(statement)?;
        let write = |value: Option<&str>, buffer: &mut BytesMut| match value {
            None => Ok(IsNull::Yes),
            Some(text) => {
                buffer.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
        };
        frontend::bind(portal, &name, [], parameters.iter().copied(), write, [], &mut self.bytes).map_err(
            |error| match error {
                frontend::BindError::Conversion(error) => error.to_string(),
                frontend::BindError::Serialization(error) => error.to_string(),
            },
        )
    }

    fn execute(&mut self, portal: &str) -> Result<(), String> {
        frontend::execute(portal, 0, &mut self.bytes).map_err(|error| error.to_string())
    }

    fn done(&mut self, step: Step) -> Result<(), String> {
        if self.bytes.len() > FLIGHT_BYTES_MAX {
            return Err(format!("more than {FLIGHT_BYTES_MAX} bytes for one transaction"));
        }
        self.steps.push(step);
        Ok(())
    }

    /// A flight of one statement.
    ///
    /// # Errors
    /// As [`Flight::add`].
    pub(crate) fn of(statement: &str, parameters: &[Option<&str>]) -> Result<Self, String> {
        let mut flight = Self::default();
        flight.add(statement, parameters)?;
        Ok(flight)
    }

    /// The bytes to send, closed with the Sync, how many of them must have left for the last statement to run, and what
    /// is to be heard of them. The server is told what it need not keep any longer.
    ///
    /// # Errors
    /// Never: a number has no NUL byte.
    pub(crate) fn into_bytes(mut self, obsolete: &[u64]) -> Result<(BytesMut, usize, Heard), String> {
        let end = self.bytes.len();
        for number in obsolete {
            frontend::close(b'S', &prepared::name(*number), &mut self.bytes)
                .map_err(|error| error.to_string())?;
        }
        frontend::sync(&mut self.bytes);
        let heard = Heard { steps: self.steps, reads: self.reads, new: self.new, ..Heard::default() };
        Ok((self.bytes, end, heard))
    }
}

/// A row: the text of each column, `None` for NULL.
pub(crate) type Row = Vec<Option<String>>;

/// What one statement answered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its rows.
    pub(crate) rows: Vec<Row>,
    /// The number at the end of its tag: rows that it changed or returned.
    pub(crate) count: u64,
}

/// How a flight ended.
#[derive(Debug)]
pub(crate) enum Landing {
    /// Every statement was answered, in the order in which they ran.
    Done(Vec<Answer>),
    /// The step at this place failed; those after it were skipped. Nothing stays of its transaction.
    Failed(usize, Fault),
}

/// Why a flight has no landing.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Not all of it left this machine: the last statement cannot have run.
    NotSent(String),
    /// It was sent, and the last statement was not answered before the connection was lost.
    Sent(String),
}

impl Lost {
    /// In words.
    pub(crate) fn into_message(self) -> String {
        match self {
            Self::NotSent(reason) | Self::Sent(reason) => reason,
        }
    }
}

/// What was heard of a flight so far.
#[derive(Default)]
pub(crate) struct Heard {
    steps: Vec<Step>,
    reads: Vec<bool>,
    new: Vec<String>,
    read: usize,
    forgotten: usize,
    bound: usize,
    answers: Vec<Answer>,
    answer: Answer,
    bytes: usize,
    failed: Option<(usize, Fault)>,
}

impl Heard {
    /// Takes a message; the status of the session when it was the last.
    pub(crate) fn take(&mut self, message: Message) -> Result<Option<u8>, String> {
        match message {
            Message::DataRow(body) => {
                self.bytes += body.buffer().len();
                if self.bytes > ANSWER_BYTES_MAX {
                    return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
                }
                self.answer.rows.push(row(&body)?);
            }
            Message::CommandComplete(body) => {
                self.answer.count = count_of(body.tag().map_err(|error| error.to_string())?);
                self.answers.push(std::mem::take(&mut self.answer));
            }
            Message::EmptyQueryResponse => self.answers.push(std::mem::take(&mut self.answer)),
            Message::ErrorResponse(body) => {
                // The first says why; a second one can only be a farewell.
                let fault = Fault::read(body.fields());
                if self.failed.is_none() {
                    self.failed = Some((self.next_step(), fault));
                }
            }
            Message::ReadyForQuery(body) => return Ok(Some(body.status())),
            Message::BindComplete => self.bound += 1,
            Message::ParseComplete => self.read += 1,
            Message::CloseComplete => self.forgotten += 1,
            Message::NoData
            | Message::NoticeResponse(_)
            | Message::NotificationResponse(_)
            | Message::ParameterStatus(_) => {}
            _ => return Err("a message that belongs to no statement".to_owned()),
        }
        Ok(None)
    }

    /// The first that is not done.
    fn next_step(&self) -> usize {
        let (mut bound, mut answered) = (0, 0);
        let is_done = |step: &&Step| {
            bound += usize::from(**step != Step::Run);
            answered += usize::from(**step != Step::Bind);
            bound <= self.bound && answered <= self.answers.len()
        };
        self.steps.iter().take_while(is_done).count()
    }

    /// Whether the last statement was answered.
    fn is_complete(&self) -> bool {
        self.next_step() == self.steps.len()
    }

    /// Takes note of what the server keeps from now on, and what not any more.
    pub(crate) fn note_kept(&mut self, prepared: &mut Prepared) {
        let read = self.reads.iter().take(self.read).filter(|kept| **kept).count();
        prepared.flown(std::mem::take(&mut self.new), read, self.forgotten, Instant::now());
    }

    /// When the server is ready for more.
    pub(crate) fn landing(self) -> Landing {
        match self.failed {
            Some((at, fault)) if at < self.steps.len() => Landing::Failed(at, fault),
            _ => Landing::Done(self.answers),
        }
    }

    /// When the connection ended for `reason` instead; `sent` tells whether the last statement had left.
    pub(crate) fn broken_off(self, sent: bool, reason: String) -> Result<Landing, Lost> {
        if self.is_complete() {
            return Ok(Landing::Done(self.answers));
        }
        match self.failed {
            // The transaction failed for certain, though its end was not heard.
            Some((at, fault)) if !fault.fatal => Ok(Landing::Failed(at, fault)),
            Some((_, fault)) if sent => Err(Lost::Sent(fault.message)),
            None if sent => Err(Lost::Sent(reason)),
            _ => Err(Lost::NotSent(reason)),
        }
    }
}

fn row(body: &DataRowBody) -> Result<Row, String> {
    let mut columns = Vec::new();
    let mut ranges = body.ranges();
    while let Some(range) = ranges.next().map_err(|error| error.to_string())? {
        let text = range.map(|range| body.buffer().get(range).map(<[u8]>::to_vec).unwrap_or_default());
        let text = text.map(String::from_utf8).transpose().map_err(|error| error.to_string())?;
        columns.push(text);
    }
    Ok(columns)
}

/// The number at the end of a command's tag: `INSERT 0 5`, `UPDATE 3`, `SELECT 1`.
fn count_of(tag: &str) -> u64 {
    tag.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sync_closes_all_statements_of_a_flight() {
        let mut flight = Flight::default();
        flight.add("SELECT $1", &[Some("x")]).unwrap();
        flight.add("COMMIT", &[]).unwrap();
        let (bytes, end, _) = flight.into_bytes(&[]).unwrap();
        assert_eq!(&bytes[end..], [b'S', 0, 0, 0, 4]);
        let sync = [b'S', 0, 0, 0, 4];
        assert_eq!(bytes.windows(5).filter(|window| *window == sync).count(), 1);
    }

    #[test]
    fn what_cannot_be_sent_is_an_error_and_no_panic() {
        assert!(Flight::of("SELECT '\0'", &[]).is_err());
        let many = vec![None; 70_000];
        assert!(Flight::of("SELECT 1", &many).is_err());
    }

    #[test]
    fn an_outcome_is_certain_when_the_commit_was_answered_or_cannot_have_been_asked_for() {
        let fault = |fatal| Fault { code: "57P01".to_owned(), fatal, ..Fault::default() };
        let heard = |answers: usize, failed: Option<bool>| Heard {
            steps: vec![Step::Statement; 3],
            bound: answers,
            answers: vec![Answer::default(); answers],
            failed: failed.map(|fatal| (answers, fault(fatal))),
            ..Heard::default()
        };
        let outcome = |answers, failed, sent| match heard(answers, failed).broken_off(sent, "cut".to_owned())
        {
            Ok(Landing::Done(_)) => "done",
            Ok(Landing::Failed(..)) => "failed",
            Err(Lost::Sent(_)) => "unknown",
            Err(Lost::NotSent(_)) => "not sent",
        };
        // Three statements, the last of which commits.
        assert_eq!(outcome(3, None, true), "done", "the connection ended after the commit");
        assert_eq!(outcome(3, Some(true), true), "done", "the farewell came after the commit");
        assert_eq!(outcome(2, None, true), "unknown");
        assert_eq!(outcome(0, None, true), "unknown");
        assert_eq!(outcome(2, Some(true), true), "unknown", "it may have been ended while it committed");
        assert_eq!(outcome(1, Some(false), true), "failed");
        assert_eq!(outcome(0, None, false), "not sent");
        assert_eq!(outcome(1, Some(true), false), "not sent");
        assert_eq!(outcome(1, Some(false), false), "failed");
    }

    #[test]
    fn a_fault_belongs_to_the_first_step_that_is_not_done() {
        let steps = vec![Step::Statement, Step::Bind, Step::Bind, Step::Statement, Step::Run, Step::Run];
        for (bound, answers, at) in [
            (0, 0, 0),
            (1, 0, 0),
            (1, 1, 1),
            (2, 1, 2),
            (3, 1, 3),
            (4, 1, 3),
            (4, 2, 4),
            (4, 3, 5),
            (4, 4, 6),
        ] {
            let answers = vec![Answer::default(); answers];
            let heard = Heard { steps: steps.clone(), bound, answers, ..Heard::default() };
            assert_eq!(heard.next_step(), at);
        }
    }

    #[test]
    fn tags_tell_how_many_rows() {
        for (tag, count) in [("INSERT 0 5", 5), ("UPDATE 3", 3), ("BEGIN", 0), ("CREATE TABLE", 0)] {
            assert_eq!(count_of(tag), count, "{tag}");
        }
    }
}
