//! A page of a listing is complete and right: sorted, within what was asked for, each key
//! as it was at some moment between the call and the answer, and no key left out, at a
//! page's border or anywhere.
//!
//! A key that a page shows, or would have to show and does not, is a read of that key; so
//! the page's keys are judged with the writes, key by key. What a page rolls up is judged
//! by what was certainly there, and certainly not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Evidence, Problem, linearizability as objects,
    writes::{self, Presence, Write},
};
use crate::{
    linearizability::{
        self, Acts, Model, Operation as Op,
        register::{Action, Input, Output, Value},
    },
    load::{Answer, Event, Operation, Page, PageEntry},
};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let writes = writes::of_objects(evidence.events);
    let mut etags = Etags::default();
    let mut operations: Vec<Op<Asked, Told>> = Vec::new();
    for event in evidence.events {
        let Some((asked, page)) = Asking::of(event) else { continue };
        asked.has_right_shape(page).map_err(|problem| asked.report(event, &problem))?;
        asked.rolls_up_rightly(event, page, &writes).map_err(|problem| asked.report(event, &problem))?;
        let shown = page.entries.iter().map(|entry| (entry.key.as_str(), entry));
        let shown: BTreeMap<&str, _> = shown.collect();
        let keys: BTreeSet<&str> = writes.keys().copied().chain(shown.keys().copied()).collect();
        for key in keys {
            if asked.rolled_up(key).is_some() || !asked.covers(key, page) {
                continue;
            }
            let content = match shown.get(key) {
                None => None,
                Some(entry) => {
                    let written = writes.get(key).map_or(&[][..], Vec::as_slice);
                    let content = etags.content(entry, written);
                    Some(content.ok_or_else(|| asked.report(event, &format!("nobody wrote {entry:?}")))?)
                }
            };
            operations.push(Op {
                client: event.client,
                input: Asked { key: key.to_owned(), action: None },
                called: event.called,
                returned: event.returned().map(|returned| (returned, Told::Content(content))),
            });
        }
    }
    if operations.is_empty() {
        return Ok(());
    }
    let shown = operations.iter().filter_map(|look| match look.returned {
        Some((_, Told::Content(content))) => content,
        _ => None,
    });
    let shown: BTreeSet<u64> = shown.collect();
    let mut writes: Vec<_> = evidence.events.iter().flat_map(objects::on_registers).collect();
    writes.retain(|op| op.input.action != Action::Get);
    objects::make_alike(&mut writes, shown);
    operations.extend(writes.into_iter().map(|op| {
        let Op { client, input: Input { key, action }, called, returned } = op;
        let input = Asked { key, action: Some(action) };
        let returned = returned.map(|(at, output)| (at, Told::Output(output)));
        Op { client, input, called, returned }
    }));
    let verdict = linearizability::check(&Shown, &operations);
    if verdict.is_linearizable() { Ok(()) } else { Err(verdict.to_string()) }
}

/// ETags of values, by content, so that each is made once: some values are large.
#[derive(Default)]
struct Etags(BTreeMap<u64, String>);

impl Etags {
    /// Which of the values that were written under its key an entry shows.
    fn content(&mut self, entry: &PageEntry, written: &[Write]) -> Option<u64> {
        // Most often the newest.
        let values = written.iter().rev().filter_map(|write| write.value);
        let mut shown = values.filter(|value| value.length() == entry.size);
        shown.find(|value| self.of(*value) == entry.etag).map(Value::content)
    }

    fn of(&mut self, value: Value) -> &str {
        self.0.entry(value.content()).or_insert_with(|| value.etag())
    }
}

/// What a page was to show.
struct Asking<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    after: Option<&'a str>,
    limit: usize,
}

impl<'a> Asking<'a> {
    fn of(event: &'a Event) -> Option<(Self, &'a Page)> {
        let (Operation::List { prefix, delimiter, after, limit }, Some(Answer::Page(page))) =
            (&event.operation, event.answer())
        else {
            return None;
        };
        let delimiter = delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        Some((Self { prefix, delimiter, after: after.as_deref(), limit: *limit }, page))
    }

    fn report(&self, event: &Event, problem: &str) -> Problem {
        format!("client {}, {:?}: {problem}", event.client, event.operation)
    }

    /// The common prefix under which a key is shown.
    fn rolled_up<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter?;
        let rest = key.strip_prefix(self.prefix)?;
        let at = rest.find(delimiter)?;
        Some(&key[..self.prefix.len() + at + delimiter.len()])
    }

    /// Whether the page has to show the key, itself or rolled up, if it is there.
    fn covers(&self, key: &str, page: &Page) -> bool {
        let shown_as = self.rolled_up(key).unwrap_or(key);
        key.starts_with(self.prefix)
            && self.after.is_none_or(|after| key > after && shown_as != after)
            && page.next.as_deref().is_none_or(|last| shown_as <= last)
    }

    fn has_right_shape(&self, page: &Page) -> Result<(), Problem> {
        let sorted = |keys: &mut dyn Iterator<Item = &str>| {
            let keys: Vec<&str> = keys.collect();
            keys.is_sorted_by(|a, b| a < b)
        };
        if !sorted(&mut page.entries.iter().map(|entry| entry.key.as_str()))
            || !sorted(&mut page.prefixes.iter().map(String::as_str))
        {
            return Err("it is not sorted, or shows something twice".into());
        }
        if page.entries.len() + page.prefixes.len() > self.limit {
            return Err(format!("it has more than {} entries", self.limit));
        }
        let strange = page
            .entries
            .iter()
            .map(|entry| &entry.key)
            .find(|key| self.rolled_up(key).is_some() || !self.covers(key, page));
        if let Some(key) = strange {
            return Err(format!("{key:?} does not belong there"));
        }
        let after = self.after.unwrap_or_default();
        let strange = page.prefixes.iter().find(|prefix| {
            let last = page.next.as_deref().is_some_and(|last| last < prefix.as_str());
            // Keys after `after` may lie under a common prefix that sorts before it.
            let passed = prefix.as_str() == after || (prefix.as_str() < after && !after.starts_with(*prefix));
            self.rolled_up(prefix) != Some(prefix) || passed || last
        });
        if let Some(prefix) = strange {
            return Err(format!("the common prefix {prefix:?} does not belong there"));
        }
        let last = page.entries.last().map(|entry| &entry.key).max(page.prefixes.last());
        if page.next.is_some() && page.next.as_ref() != last {
            return Err(format!("it goes on after {:?}, and shows nothing later than {last:?}", page.next));
        }
        Ok(())
    }

    fn rolls_up_rightly(
        &self,
        event: &Event,
        page: &Page,
        writes: &BTreeMap<&str, Vec<Write>>,
    ) -> Result<(), Problem> {
        let Some(returned) = event.returned() else { return Ok(()) };
        let mut under: BTreeMap<&str, Vec<Presence>> = BTreeMap::new();
        for (key, writes) in writes {
            if let Some(prefix) = self.rolled_up(key)
                && self.covers(key, page)
            {
                under.entry(prefix).or_default().push(writes::presence(writes, event.called, returned));
            }
        }
        for (prefix, keys) in &under {
            let shown = page.prefixes.iter().any(|shown| shown == prefix);
            if !shown && keys.contains(&Presence::Present) {
                return Err(format!("the common prefix {prefix:?} is missing"));
            }
            if shown && keys.iter().all(|presence| *presence == Presence::Absent) {
                return Err(format!("nothing lies under the common prefix {prefix:?}"));
            }
        }
        match page.prefixes.iter().find(|prefix| !under.contains_key(prefix.as_str())) {
            Some(prefix) => Err(format!("nobody wrote anything under the common prefix {prefix:?}")),
            None => Ok(()),
        }
    }
}

/// Registers that are written, and looked at as a listing does.
struct Shown;

#[derive(Debug, Clone, PartialEq)]
struct Asked {
    key: String,
    /// `None`: a look.
    action: Option<Action>,
}

#[derive(Debug, Clone, PartialEq)]
enum Told {
    Output(Output),
    /// What an ETag tells of the value.
    Content(Option<u64>),
}

impl Model for Shown {
    type Input = Asked;
    type Output = Told;
    type State = Option<Value>;
    type Trigger = Option<u64>;
    type Part = String;

    fn initial(&self) -> Option<Value> {
        None
    }

    fn step(&self, state: &Option<Value>, input: &Asked, output: Option<&Told>) -> Option<Option<Value>> {
        let (answer, next) = match input.action {
            None => (Told::Content(state.map(Value::content)), *state),
            Some(action) => {
                let (answer, next) = action.apply(*state);
                (Told::Output(answer), next)
            }
        };
        (output.is_none() || output == Some(&answer)).then_some(next)
    }

    fn changes_nothing(&self, input: &Asked, output: Option<&Told>) -> bool {
        input.action.is_none_or(|action| matches!(action, Action::Get | Action::Has(_)))
            || output == Some(&Told::Output(Output::Refused))
    }

    fn acts(&self, input: &Asked) -> Acts<Option<u64>> {
        input.action.map_or(Acts::Perhaps, Action::acts)
    }

    fn triggers(&self, state: &Option<Value>) -> impl IntoIterator<Item = Option<u64>> {
        [state.map(Value::content)]
    }

    fn needs(&self, asked: &Asked, told: &Told) -> impl IntoIterator<Item = Option<u64>> {
        match (asked.action, told) {
            (Some(action), Told::Output(output)) => action.needs(*output),
            (None, Told::Content(content)) => Some(*content),
            (Some(_), Told::Content(_)) | (None, Told::Output(_)) => None,
        }
    }

    fn gives(&self, asked: &Asked) -> impl IntoIterator<Item = Option<u64>> {
        asked.action.and_then(Action::gives)
    }

    fn parts(&self, inputs: &[&Asked]) -> Vec<String> {
        inputs.iter().map(|input| input.key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn page(keys: &[(&str, u64)], prefixes: &[&str], next: Option<&str>) -> Page {
        let entry = |(key, value): &(&str, u64)| PageEntry {
            key: (*key).into(),
            etag: Value(*value).etag(),
            size: Value(*value).body().len() as u64,
        };
        Page {
            entries: keys.iter().map(entry).collect(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).into()).collect(),
            next: next.map(Into::into),
        }
    }

    fn list(prefix: &str, delimiter: Option<&str>, after: Option<&str>, limit: usize) -> Operation {
        let (delimiter, after) = (delimiter.map(Into::into), after.map(Into::into));
        Operation::List { prefix: prefix.into(), delimiter, after, limit }
    }

    fn written() -> Story {
        let mut story = Story::default();
        for (key, value) in [("a", 1), ("b/1", 2), ("b/2", 3), ("c", 4)] {
            story.put(key, value);
        }
        story
    }

    fn verdict(asked: Operation, answer: Page) -> Result<(), Problem> {
        let mut story = written();
        story.answered(asked, Answer::Page(answer));
        check(&story.evidence())
    }

    #[test]
    fn whole_listings_and_pages_are_fine() {
        let all = [("a", 1), ("b/1", 2), ("b/2", 3), ("c", 4)];
        assert_eq!(verdict(list("", None, None, 9), page(&all, &[], None)), Ok(()));
        assert_eq!(verdict(list("", None, None, 2), page(&all[..2], &[], Some("b/1"))), Ok(()));
        assert_eq!(verdict(list("", None, Some("b/1"), 9), page(&all[2..], &[], None)), Ok(()));
        assert_eq!(verdict(list("b", None, None, 9), page(&all[1..3], &[], None)), Ok(()));
        assert_eq!(verdict(list("", Some("/"), None, 2), page(&[("a", 1)], &["b/"], Some("b/"))), Ok(()));
        assert_eq!(verdict(list("", Some("/"), Some("b/"), 9), page(&[("c", 4)], &[], None)), Ok(()));
        // What lies under a common prefix after the start shows it again.
        assert_eq!(verdict(list("", Some("/"), Some("b/1"), 9), page(&[("c", 4)], &["b/"], None)), Ok(()));
    }

    #[test]
    fn a_key_that_is_left_out_is_found() {
        assert!(
            verdict(list("", None, None, 9), page(&[("a", 1), ("b/1", 2), ("c", 4)], &[], None)).is_err()
        );
        // At a page's border.
        assert!(verdict(list("", None, Some("a"), 9), page(&[("b/2", 3), ("c", 4)], &[], None)).is_err());
    }

    #[test]
    fn a_common_prefix_that_is_left_out_or_invented_is_found() {
        let wrong = verdict(list("", Some("/"), None, 9), page(&[("a", 1), ("c", 4)], &[], None));
        assert!(wrong.unwrap_err().contains("missing"));
        let wrong = verdict(list("", Some("/"), None, 9), page(&[("a", 1), ("c", 4)], &["b/", "d/"], None));
        assert!(wrong.unwrap_err().contains("nobody wrote"));
    }

    #[test]
    fn what_is_out_of_order_or_too_much_or_elsewhere_is_found() {
        assert!(verdict(list("", None, Some("b"), 9), page(&[("c", 4), ("b/1", 2)], &[], None)).is_err());
        assert!(verdict(list("", None, None, 1), page(&[("a", 1), ("b/1", 2)], &[], Some("b/1"))).is_err());
        assert!(verdict(list("b", None, None, 9), page(&[("a", 1)], &[], None)).is_err());
        assert!(verdict(list("", Some("/"), None, 9), page(&[("b/1", 2)], &[], None)).is_err());
    }

    #[test]
    fn an_old_value_is_found() {
        let mut story = written();
        story.put("a", 7);
        story.answered(list("a", None, None, 9), Answer::Page(page(&[("a", 1)], &[], None)));
        assert!(check(&story.evidence()).unwrap_err().contains("\"a\""));
    }

    #[test]
    fn what_nobody_wrote_is_found() {
        let wrong = verdict(list("a", None, None, 9), page(&[("a", 77)], &[], None));
        assert!(wrong.unwrap_err().contains("nobody wrote"));
    }
}
