//! What goes wrong on the command line, as the user sees it: one line, its causes, and a
//! hint with a command that can be pasted.

use std::{error::Error, process::ExitCode};

/// Whose fault a failure is; each has its own exit code, which scripts may rely on.
/// (2 is clap's, for flags that do not parse.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request was understood and refused: no such key, a condition that failed.
    Request = 1,
    /// A setting, a file or an address must be mended first.
    Configuration = 3,
    /// Nobody answered, or not now. Trying again may help.
    Unavailable = 4,
    /// What was looked at is as it should be, but not all could be looked at.
    Incomplete = 5,
    /// Ours.
    Internal = 70,
}

#[derive(Debug)]
pub struct Failure {
    fault: Fault,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// From an error with its chain; the chain is printed here and nowhere else.
    pub fn from_error(fault: Fault, error: &dyn Error) -> Self {
        let mut failure = Self::new(fault, error.to_string());
        failure.causes_from(error.source());
        failure
    }

    pub fn caused_by(mut self, error: &dyn Error) -> Self {
        self.causes.push(error.to_string());
        self.causes_from(error.source());
        self
    }

    fn causes_from(&mut self, mut cause: Option<&dyn Error>) {
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries repeat their source in their own text.
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            cause = error.source();
        }
    }

    /// Puts what came of it first; what went wrong becomes the cause.
    pub fn about(mut self, message: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, cause);
        self
    }

    pub fn fault(&self) -> Fault {
        self.fault
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn print(&self) -> ExitCode {
        eprintln!("error: {}", self.message);
        for cause in &self.causes {
            eprintln!("  because: {cause}");
        }
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.fault as u8)
    }
}

pub type Outcome = Result<(), Failure>;

/// An error with its causes on one line, for what is not a failure of the command itself.
pub fn with_causes(error: &dyn Error) -> String {
    let Failure { message, mut causes, .. } = Failure::from_error(Fault::Internal, error);
    causes.insert(0, message);
    causes.join(": ")
}
