//! Failure transparency: a node is killed in the middle, and the client notices nothing but
//! a moment's wait.

use std::time::{Duration, Instant};

use crate::harness::{Background, Cluster, boto3, boto3_command, wait_until};

/// Puts and gets against one node without a pause until its standard input ends; prints
/// `ready`, then at the end the longest time that any one of them took, in milliseconds.
/// Everything it wrote must be there in the end, and every get give what was last put.
const WORK: &str = r#"
import select
s3.create_bucket(Bucket='work')
bodies = {'small': b's' * 2000, 'large': os.urandom(4_000_000)}
longest, turns, written = 0, 0, []
print('ready', flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for kind, body in bodies.items():
        key = f'{kind}-{turns}'
        started = time.monotonic()
        s3.put_object(Bucket='work', Key=key, Body=body)
        written.append((key, body))
        longest = max(longest, time.monotonic() - started)
        started = time.monotonic()
        assert s3.get_object(Bucket='work', Key=key)['Body'].read() == body
        longest = max(longest, time.monotonic() - started)
    turns += 1
for key, body in written:
    assert s3.get_object(Bucket='work', Key=key)['Body'].read() == body, key
listed = {item['Key'] for page in s3.get_paginator('list_objects_v2').paginate(Bucket='work') for item in page['Contents']}
assert {key for key, _ in written} <= listed
print(int(longest * 1000), turns, flush=True)
"#;

fn work_while(cluster: &mut Cluster, served_by: usize, accident: impl FnOnce(&mut Cluster)) -> Duration {
    let mut work = Background::start(boto3_command(&cluster.nodes[served_by].s3, WORK, &[]));
    assert_eq!(work.line(), "ready");
    accident(cluster);
    let printed = work.finish();
    let longest: u64 = printed.split_whitespace().next().unwrap().parse().unwrap();
    Duration::from_millis(longest)
}

/// What the README promises after the death of any one of three nodes.
const INTERRUPTION_MAX: Duration = Duration::from_secs(3);

#[test]
fn any_node_may_be_killed_under_load_and_comes_back_by_itself() {
    let mut cluster = Cluster::start(3);
    // Each in turn is killed while another serves, so that leaders die too.
    for victim in 0..3 {
        let longest = work_while(&mut cluster, (victim + 1) % 3, |cluster| {
            cluster.nodes[victim].kill_9();
            let served_by = &cluster.nodes[(victim + 1) % 3].s3;
            let started = Instant::now();
            boto3(served_by, "s3.put_object(Bucket='work', Key='after', Body=b'x')", &[]);
            eprintln!("a put right after the kill took {:?}", started.elapsed());
            cluster.nodes[victim].restart();
            cluster.wait_settled();
        });
        assert!(longest < INTERRUPTION_MAX, "a request took {longest:?} when node {victim} was killed");
        boto3(
            &cluster.nodes[victim].s3,
            "
for item in s3.list_objects_v2(Bucket='work')['Contents']: s3.delete_object(Bucket='work', Key=item['Key'])
while 'Contents' in (page := s3.list_objects_v2(Bucket='work')):
    for item in page['Contents']: s3.delete_object(Bucket='work', Key=item['Key'])
s3.delete_bucket(Bucket='work')",
            &[],
        );
    }
}

#[test]
fn a_get_goes_on_when_a_holder_dies_in_the_middle_of_it() {
    let mut cluster = Cluster::start(3);
    let endpoint = cluster.nodes[0].s3.clone();
    let script = r#"
s3.create_bucket(Bucket='bucket')
body = os.urandom(60_000_000)
s3.put_object(Bucket='bucket', Key='k', Body=body)
stream = s3.get_object(Bucket='bucket', Key='k')['Body']
got = [stream.read(1_000_000)]
print('begun', flush=True)
sys.stdin.read()
while block := stream.read(1_000_000): got.append(block)
assert b''.join(got) == body
"#;
    let mut get = Background::start(boto3_command(&endpoint, script, &[]));
    assert_eq!(get.line(), "begun");
    cluster.nodes[2].kill_9();
    get.finish();
}

#[test]
fn a_put_goes_on_when_a_holder_dies_in_the_middle_of_it() {
    let mut cluster = Cluster::start(3);
    let endpoint = cluster.nodes[0].s3.clone();
    let script = r#"
class Halfway(io.RawIOBase):
    def __init__(self, body): self.body, self.at, self.told = body, 0, False
    def readable(self): return True
    def readinto(self, buffer):
        if self.at > len(self.body) // 2 and not self.told:
            self.told = True
            print('half', flush=True)
            sys.stdin.read()
        n = min(len(buffer), len(self.body) - self.at)
        buffer[:n] = self.body[self.at:self.at + n]
        self.at += n
        return n
s3.create_bucket(Bucket='bucket')
body = os.urandom(40_000_000)
import urllib.request
url = client(endpoint, signature_version='s3v4').generate_presigned_url('put_object', Params={'Bucket': 'bucket', 'Key': 'k'})
request = urllib.request.Request(url, method='PUT', data=io.BufferedReader(Halfway(body), 1 << 16), headers={'Content-Length': str(len(body))})
assert urllib.request.urlopen(request).status == 200
assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == body
"#;
    let mut put = Background::start(boto3_command(&endpoint, script, &[]));
    assert_eq!(put.line(), "half");
    cluster.nodes[1].kill_9();
    put.finish();
}

#[test]
fn a_node_without_the_others_answers_503_and_takes_nothing() {
    let cluster = Cluster::start(3);
    let endpoint = cluster.nodes[0].s3.clone();
    boto3(
        &endpoint,
        "s3.create_bucket(Bucket='bucket'); s3.put_object(Bucket='bucket', Key='k', Body=b'old')",
        &[],
    );
    cluster.nodes[1].freeze();
    cluster.nodes[2].freeze();
    boto3(
        &endpoint,
        r#"
alone = client(endpoint, retries={'total_max_attempts': 1}, read_timeout=20)
actions = {
    'get': lambda: alone.get_object(Bucket='bucket', Key='k'),
    'put': lambda: alone.put_object(Bucket='bucket', Key='k', Body=b'new'),
    'list': lambda: alone.list_objects_v2(Bucket='bucket'),
    'delete': lambda: alone.delete_object(Bucket='bucket', Key='other'),
}
def told(action):
    started = time.monotonic()
    try:
        # What was read just before the cut is no longer known to be the latest.
        action()
        return 'answered without the others'
    except ClientError as error:
        status = error.response['ResponseMetadata']['HTTPStatusCode']
        took = time.monotonic() - started
        return None if status == 503 and took < 5 else f'{status} after {took} s'
from concurrent.futures import ThreadPoolExecutor
for turn in range(2):
    with ThreadPoolExecutor(len(actions)) as pool:
        wrong = {name: answer for name, answer in zip(actions, pool.map(told, actions.values())) if answer}
    assert not wrong, wrong
"#,
        &[],
    );
    cluster.nodes[1].thaw();
    cluster.nodes[2].thaw();
    wait_until("the cluster answers again", || {
        let output =
            boto3_command(&endpoint, "s3.get_object(Bucket='bucket', Key='k')", &[]).output().unwrap();
        output.status.success()
    });
    boto3(
        &endpoint,
        "assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() in (b'old', b'new')",
        &[],
    );
}

/// The control: with a majority gone, the same work does fail.
#[test]
#[should_panic(expected = "a background script failed")]
fn control_two_dead_of_three_are_noticed() {
    let mut cluster = Cluster::start(3);
    work_while(&mut cluster, 0, |cluster| {
        cluster.nodes[1].kill_9();
        cluster.nodes[2].kill_9();
        // Long enough for the work to meet it; it fails by itself.
        let endpoint = cluster.nodes[0].s3.clone();
        boto3_command(&endpoint, "code_of(lambda: s3.list_buckets())", &[]).output().unwrap();
    });
}
