//! Raft logs through `slog`; hands what is worth it on to `tracing`.

use slog::{Drain, KV, Level, Never, OwnedKVList, Record};

struct ToTracing;

/// Collects a record's keys and values as text.
struct Text(String);

impl slog::Serializer for Text {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        use std::fmt::Write;
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // Raft tells every message below `Info`, and every election at `Info`.
        let level = record.level();
        if !level.is_at_least(Level::Info) || !tracing::enabled!(tracing::Level::DEBUG) {
            return Ok(());
        }
        let mut text = Text(String::new());
        // Text can't refuse a value.
        let _ = record.kv().serialize(record, &mut text);
        let _ = values.serialize(record, &mut text);
        tracing::debug!(target: "atoll_records::raft", "{}{}", record.msg(), text.0);
        Ok(())
    }
}

pub(crate) fn logger() -> slog::Logger {
    slog::Logger::root(ToTracing, slog::o!())
}
