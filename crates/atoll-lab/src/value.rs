//! What stands in a row's column and in a parameter: one type, so that tables, JSON and pages
//! show both alike.

use std::{fmt, time::Duration};

use serde::Serialize;

/// How a list with nothing in it is written.
pub(crate) const EMPTY_LIST: &str = "none";

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    Text(String),
    Whole(u64),
    Number(f64),
    Switch(bool),
    List(Vec<Value>),
}

impl Value {
    /// None for what is not one number.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Whole(whole) => Some(*whole as f64),
            Value::Number(number) => Some(*number),
            Value::Text(_) | Value::Switch(_) | Value::List(_) => None,
        }
    }
}

/// As it is written on a command line.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Whole(whole) => write!(f, "{whole}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Switch(switch) => write!(f, "{switch}"),
            Value::List(values) if values.is_empty() => f.write_str(EMPTY_LIST),
            Value::List(values) => {
                for (index, value) in values.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{value}")?;
                }
                Ok(())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(whole: u64) -> Self {
        Value::Whole(whole)
    }
}

impl From<u32> for Value {
    fn from(whole: u32) -> Self {
        Value::Whole(whole.into())
    }
}

impl From<usize> for Value {
    fn from(whole: usize) -> Self {
        Value::Whole(whole as u64)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Number(number)
    }
}

/// In seconds, as all parameters and columns with `_s` are.
impl From<Duration> for Value {
    fn from(duration: Duration) -> Self {
        Value::Number(duration.as_secs_f64())
    }
}
