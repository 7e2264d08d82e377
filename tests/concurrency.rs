//! Concurrency transparency: clients that race see one object that changes one step at a
//! time.

use crate::harness::{Cluster, boto3};

/// Several clients at several nodes add to one counter with conditional puts: every success
/// must count once. Without the condition, updates are lost: that is the control.
const COUNT: &str = r#"
conditional, ends = sys.argv[1] == 'conditional', sys.argv[2:]
s3.create_bucket(Bucket='bucket')
s3.put_object(Bucket='bucket', Key='counter', Body=b'0')
successes, lost, lock = 0, 0, threading.Lock()
gate = threading.Barrier(6)
def race(number):
    global successes, lost
    mine = client(ends[number % len(ends)])
    gate.wait()
    for _ in range(15):
        while True:
            got = mine.get_object(Bucket='bucket', Key='counter')
            value = int(got['Body'].read())
            more = {'IfMatch': got['ETag']} if conditional else {}
            try:
                mine.put_object(Bucket='bucket', Key='counter', Body=str(value + 1).encode(), **more)
                with lock: successes += 1
                break
            except ClientError as error:
                assert error.response['Error']['Code'] in ('PreconditionFailed', 'ConditionalRequestConflict'), error
                with lock: lost += 1
threads = [threading.Thread(target=race, args=(n,)) for n in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
value = int(s3.get_object(Bucket='bucket', Key='counter')['Body'].read())
assert value == successes == 90, (value, successes, lost)
"#;

#[test]
fn racing_conditional_puts_lose_no_update() {
    let cluster = Cluster::start(3);
    let mut arguments = vec!["conditional"];
    arguments.extend(cluster.nodes.iter().map(|node| node.s3.as_str()));
    boto3(arguments[1], COUNT, &arguments);
}

#[test]
#[should_panic(expected = "boto3 script failed")]
fn control_without_the_condition_updates_are_lost() {
    let cluster = Cluster::start(1);
    let endpoint = cluster.nodes[0].s3.as_str();
    boto3(endpoint, COUNT, &["unconditional", endpoint]);
}

#[test]
fn of_many_that_create_one_key_one_succeeds() {
    let cluster = Cluster::start(3);
    let ends: Vec<&str> = cluster.nodes.iter().map(|node| node.s3.as_str()).collect();
    boto3(
        ends[0],
        r#"
ends = sys.argv[1:]
s3.create_bucket(Bucket='bucket')
for size in (10, 300_000):
    for turn in range(5):
        winners, gate = [], threading.Barrier(6)
        def race(number):
            mine = client(ends[number % len(ends)])
            gate.wait()
            try:
                mine.put_object(Bucket='bucket', Key=f'{size}-{turn}', Body=str(number).encode() * size, IfNoneMatch='*')
                winners.append(number)
            except ClientError as error:
                assert error.response['Error']['Code'] in ('PreconditionFailed', 'ConditionalRequestConflict'), error
        threads = [threading.Thread(target=race, args=(n,)) for n in range(6)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert len(winners) == 1, winners
        assert s3.get_object(Bucket='bucket', Key=f'{size}-{turn}')['Body'].read() == str(winners[0]).encode() * size
"#,
        &ends,
    );
}
