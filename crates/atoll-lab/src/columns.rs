//! The columns of all experiments' rows, each with one meaning everywhere.
//!
//! The one list of them: tables, JSON and pages name them from here, and a test holds the table
//! in docs/lab.md against it. A column that was not measured is absent from its row; it is never
//! filled with a zero.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::value::Value;

macro_rules! columns {
    ($($variant:ident $name:literal [$unit:literal, $decimals:literal] $meaning:literal;)+) => {
        /// A column of [`Row`]s, in the order in which they are shown.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Column { $(#[doc = $meaning] $variant,)+ }

        impl Column {
            pub const ALL: &[Column] = &[$(Column::$variant),+];

            pub fn name(self) -> &'static str {
                match self { $(Column::$variant => $name,)+ }
            }

            /// Empty for texts.
            pub fn unit(self) -> &'static str {
                match self { $(Column::$variant => $unit,)+ }
            }

            pub fn meaning(self) -> &'static str {
                match self { $(Column::$variant => $meaning,)+ }
            }

            /// How many are shown to people; JSON has all.
            fn decimals(self) -> usize {
                match self { $(Column::$variant => $decimals,)+ }
            }
        }
    };
}

columns! {
    Overlay "overlay" ["", 0] "the kind of overlay; of broadcasts, whose neighbours are used: its tables', those of a random graph, or a tree's own";
    Method "method" ["", 0] "how a message is broadcast, or something searched where there is no index";
    Nodes "nodes" ["nodes", 0] "how many, before any failed; under churn, at any time";
    Condition "condition" ["", 0] "what a network is measured under, one after the other: calm; churn; right after the busiest nodes failed; ten minutes later";
    Sessions "sessions" ["", 0] "how nodes' sessions are distributed; whoever goes is replaced at once by another";
    SessionMedianS "session_median_s" ["s", 0] "the median session";
    Change "change" ["", 0] "what befalls one node: it joins, it leaves with a goodbye, or it fails";
    ChangeMessagesMean "change_messages_mean" ["messages", 1] "sent by or to that node for 20 s, and on until lookups are clean again, at most 10 min";
    ChangeBytesMean "change_bytes_mean" ["bytes", 0] "the same, on the wire";
    RightAfterSMean "right_after_s_mean" ["s", 1] "from the change until lookups of that node's keys end at the responsible node; absent if not within 10 min each time";
    CleanAfterSMean "clean_after_s_mean" ["s", 1] "the same, and until none of them meets a node that does not answer";
    Lookups "lookups" ["lookups", 0] "of evenly drawn keys, asked at evenly drawn nodes that live until the answer";
    FailedShare "failed_share" ["share", 2] "of the nodes that failed, all at once";
    LyingShare "lying_share" ["share", 2] "of the nodes that lie; keys are then of honest nodes, asked at honest nodes";
    DisjointPaths "disjoint_paths" ["paths", 0] "of a lookup, with no node in common";
    JoinedThrough "joined_through" ["nodes", 0] "how many each node knew, drawn, when it joined";
    LyingIndexes "lying_indexes" ["nodes", 0] "index nodes of a directory that lie: they keep nothing, and answer that there is nothing";
    Reads "reads" ["nodes", 0] "index nodes of a directory that a read asks at once";
    Attack "attack" ["", 0] "what one hostile member does";
    Identities "identities" ["nodes", 0] "of one adversary, let in for each chosen key: of those that it drew, the nearest to it; they hide what they should keep";
    DrawnPerNode "drawn_per_node" ["keys", 0] "node keys that the adversary drew for each honest node";
    MadeUpAuthors "made_up_authors" ["authors", 0] "in whose names one member stored under each key before its owner did";
    Sender "sender" ["", 0] "in whose name a message is sent again: the hostile member's own, as where names are proven, or forged, that of who sent it first";
    SentAgain "sent_again" ["messages", 0] "of all kinds, each followed up by itself";
    JunkMessages "junk_messages" ["messages", 0] "of all kinds, sent by one member to one node, the one with the most state";
    ValuesMissedShare "values_missed_share" ["share", 3] "of values stored by honest nodes, those that a read at another honest node does not find";
    KeysOwnedShare "keys_owned_share" ["share", 2] "of the chosen keys, those whose lookups by honest nodes end at an identity of the adversary";
    AnswerTimesMax "answer_times_max" ["times", 1] "bytes that others send to whose name a message bears, at once, by its own bytes; the most of all";
    AnswerWorst "answer_worst" ["", 0] "the kind of message that made the most of it";
    ThirdTimesMax "third_times_max" ["times", 1] "the same, sent to any one other node";
    ThirdWorst "third_worst" ["", 0] "the kind of message that made the most of it";
    AllTimesMax "all_times_max" ["times", 1] "the same, sent by all others to anybody";
    AllWorst "all_worst" ["", 0] "the kind of message that made the most of it";
    StateBeforeBytes "state_before_bytes" ["bytes", 0] "of that node, before";
    StateMeanwhileBytesMax "state_meanwhile_bytes_max" ["bytes", 0] "the same, at most until the last of them";
    RepairS "repair_s" ["s", 0] "upkeep between the failure and what is measured";
    HopsMean "hops_mean" ["hops", 2] "remote nodes contacted one after the other that answered, the responsible one included; of lookups that found it";
    HopsP1 "hops_p1" ["hops", 0] "the same, 1st percentile";
    HopsP50 "hops_p50" ["hops", 0] "the same, median";
    HopsP99 "hops_p99" ["hops", 0] "the same, 99th percentile";
    TimeoutsMean "timeouts_mean" ["nodes", 2] "contacted that did not answer, per lookup";
    TimeoutsP1 "timeouts_p1" ["nodes", 0] "the same, 1st percentile";
    TimeoutsP99 "timeouts_p99" ["nodes", 0] "the same, 99th percentile";
    LookupsFailedShare "lookups_failed_share" ["share", 4] "of lookups that ended without an answer, or with a node that is not responsible";
    KeysLostShare "keys_lost_share" ["share", 4] "of lookups, those that do not end with the node that was responsible before any failed: what it alone kept is lost";
    LookupsWrongShare "lookups_wrong_share" ["share", 4] "of lookups that ended with a node that is not responsible, when asked or when answered";
    Connections "connections" ["nodes", 0] "neighbours of a node that were asked for, on average";
    UploadMbitPerS "upload_mbit_per_s" ["Mbit/s", 0] "what a node can send, one message after the other";
    PayloadBytes "payload_bytes" ["bytes", 0] "of a payload";
    Broadcasts "broadcasts" ["broadcasts", 0] "one after the other, each from an evenly drawn node that lives";
    ReachedShareMean "reached_share_mean" ["share", 4] "of the nodes that live, besides the source, those that a broadcast reached";
    ReachedShareMin "reached_share_min" ["share", 4] "the same, of the broadcast that reached the fewest";
    PayloadsPerNode "payloads_per_node" ["payloads", 2] "sent for a broadcast, by the nodes that live; 1 is none too many";
    BroadcastMessagesPerNode "broadcast_messages_per_node" ["messages", 2] "sent for a broadcast, by the nodes that live, word of it included and upkeep not";
    BroadcastBytesPerNode "broadcast_bytes_per_node" ["bytes", 0] "the same, on the wire";
    DepthMean "depth_mean" ["hops", 2] "nodes that a payload went through, the one that it reached included";
    DepthMax "depth_max" ["hops", 0] "the same, the most of all broadcasts";
    HalfMsMean "half_ms_mean" ["ms", 0] "until half of the nodes that live have the payload; of broadcasts that reach them";
    LastMsMean "last_ms_mean" ["ms", 0] "until the last node that is reached has it";
    OverheadBytesPerNode "overhead_bytes_per_node" ["bytes", 0] "sent for a broadcast by the nodes that live, payloads themselves not included";
    ModelHalfMs "model_half_ms" ["ms", 0] "what a model says of half_ms_mean";
    ModelLastMs "model_last_ms" ["ms", 0] "what a model says of last_ms_mean";
    ModelOverheadBytesPerNode "model_overhead_bytes_per_node" ["bytes", 0] "what a model says of overhead_bytes_per_node";
    HolderShare "holder_share" ["share", 4] "of the nodes that have what is searched";
    Searches "searches" ["searches", 0] "each for something else, from an evenly drawn node";
    FoundShare "found_share" ["share", 3] "of the searches that found something";
    SearchMessagesMean "search_messages_mean" ["messages", 0] "sent by anybody for a search, answers included";
    SearchBytesMean "search_bytes_mean" ["bytes", 0] "the same, on the wire";
    PublishMessagesMean "publish_messages_mean" ["messages", 1] "sent by anybody so that one thing of one node can be found";
    QueriesPerPublication "queries_per_publication" ["searches", 0] "for each thing that a node publishes";
    AllMessagesMean "all_messages_mean" ["messages", 0] "for a search, with its share of publishing and of upkeep";
    FirstHitMsMean "first_hit_ms_mean" ["ms", 0] "from the search until its first hit, of those that found something";
    FalseFirstShare "false_first_share" ["share", 3] "of the searches that end with their first hit, those that end with a false one or with none";
    MissingShare "missing_share" ["share", 3] "of the searches that end with 16 hits, or after their time, those with no true one among them";
    Operations "operations" ["operations", 0] "lookups of who provides something and searches for it by a word, as many of the ones as of the others";
    OperationsFoundShare "operations_found_share" ["share", 3] "of the operations that found somebody who has it and lives";
    AnswerMsMean "answer_ms_mean" ["ms", 0] "from the question until the operation ended, of those that found something";
    AnswerMsP99 "answer_ms_p99" ["ms", 0] "the same, 99th percentile";
    OperationMessagesMean "operation_messages_mean" ["messages", 1] "sent by anybody while operations are asked, upkeep and broadcasts included, by operations";
    TrafficBytesPerNodeS "traffic_bytes_per_node_s" ["bytes/s", 0] "sent by a node while operations are asked, on the wire, upkeep and broadcasts included";
    BusiestBytesPerS "busiest_bytes_per_s" ["bytes/s", 0] "sent and got by the node that had most of both, meanwhile";
    BusiestTimesMean "busiest_times_mean" ["times", 1] "the same, by what nodes have on average";
    StaleShare "stale_share" ["share", 4] "of the contacts in nodes' tables that are gone";
    MessagesMean "messages_mean" ["messages", 1] "sent by anybody for a lookup, answers and repetitions included";
    BytesMean "bytes_mean" ["bytes", 0] "on the wire for a lookup, by anybody: encoded messages, and 88 bytes of frame, TLS, TCP and IP for each";
    LatencyMsMean "latency_ms_mean" ["ms", 0] "from question to answer, of lookups that found the responsible node";
    LatencyMsP99 "latency_ms_p99" ["ms", 0] "the same, 99th percentile";
    Stretch "stretch" ["times", 2] "mean latency by the mean round trip straight to the responsible node";
    UpkeepMessagesPerNodeS "upkeep_messages_per_node_s" ["messages/s", 2] "sent by a node while nobody looks anything up; joining and leaving included";
    UpkeepBytesPerNodeS "upkeep_bytes_per_node_s" ["bytes/s", 0] "the same, on the wire";
    JoinMsMean "join_ms_mean" ["ms", 0] "from a node's first message until it says that it is part of the overlay";
    ContactsMean "contacts_mean" ["nodes", 1] "in a node's tables";
    BytesPerNode "bytes_per_node" ["bytes", 0] "the core's state, a contact being four bytes";
    StateBytesMax "state_bytes_max" ["bytes", 0] "the same, of the node that has most";
}

/// One network, measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    values: BTreeMap<Column, Value>,
}

impl Row {
    pub(crate) fn with(mut self, column: Column, value: impl Into<Value>) -> Self {
        self.values.insert(column, value.into());
        self
    }

    /// Leaves the column out if there was nothing to measure.
    pub(crate) fn with_some(self, column: Column, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(column, value),
            None => self,
        }
    }

    pub fn value(&self, column: Column) -> Option<&Value> {
        self.values.get(&column)
    }

    /// None if it was not measured, or is not a number.
    pub fn number(&self, column: Column) -> Option<f64> {
        self.value(column)?.number()
    }

    pub fn columns(&self) -> impl Iterator<Item = Column> {
        self.values.keys().copied()
    }

    /// For people; a dash if it was not measured.
    pub fn shown(&self, column: Column) -> String {
        match self.value(column) {
            Some(Value::Number(number)) => format!("{number:.*}", column.decimals()),
            Some(value) => value.to_string(),
            None => "-".to_owned(),
        }
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (column, value) in &self.values {
            map.serialize_entry(column.name(), value)?;
        }
        map.end()
    }
}

/// The columns that any of the rows has, in order.
pub fn columns_of(rows: &[Row]) -> Vec<Column> {
    let has = |column: &Column| rows.iter().any(|row| row.value(*column).is_some());
    Column::ALL.iter().copied().filter(has).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_tells_of_every_column_and_of_no_other() {
        let documented = include_str!("../../../docs/lab.md");
        let table: String = Column::ALL
            .iter()
            .map(|column| format!("| `{}` | {} | {} |\n", column.name(), column.unit(), column.meaning()))
            .collect();
        let table = format!("| column | unit | meaning |\n|---|---|---|\n{table}\n");
        assert!(documented.contains(&table), "docs/lab.md needs this table of columns:\n\n{table}");
    }

    #[test]
    fn the_envelope_that_is_documented_is_the_one_that_is_counted() {
        assert!(Column::BytesMean.meaning().contains(&format!("and {} bytes", crate::ENVELOPE_BYTES)));
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let row = Row::default().with(Column::Nodes, 5_usize).with_some(Column::HopsMean, None::<f64>);
        assert_eq!(row.columns().collect::<Vec<_>>(), [Column::Nodes]);
        assert_eq!((row.shown(Column::Nodes), row.shown(Column::HopsMean)), ("5".into(), "-".into()));
    }
}
