//! `atoll bench s3` against real nodes, and against a store that lies. What it measures is
//! nobody's business here: that it measures all of it, checks what it gets, and leaves nothing.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use crate::harness::{ACCESS_KEY, Cluster, SECRET_KEY, atoll, boto3, interrupt, wait_until};

fn bench_command(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = atoll();
    command
        .args(["bench", "s3", "-o", "json", "--endpoint", endpoint, "--clients", "4", "--warm-up", "0"])
        .args(arguments)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command
}

fn bench(endpoint: &str, arguments: &[&str]) -> Output {
    bench_command(endpoint, arguments).output().expect("the built binary starts")
}

fn report(endpoint: &str, arguments: &[&str]) -> Value {
    let output = bench(endpoint, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    assert_eq!(stderr(&output), "", "no progress where nobody watches");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn row<'a>(report: &'a Value, operation: &str) -> &'a Value {
    let mut rows = report["rows"].as_array().expect("rows").iter();
    rows.find(|row| row["operation"] == operation).unwrap_or_else(|| panic!("no {operation} in {report}"))
}

fn count(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap_or_else(|| panic!("no {name} in {row}"))
}

fn buckets(cluster: &Cluster) -> String {
    let names = "print(' '.join(bucket['Name'] for bucket in s3.list_buckets()['Buckets']), end='')";
    boto3(&cluster.nodes[0].s3, names, &[])
}

#[test]
fn every_operation_is_measured_and_nothing_is_left() {
    let cluster = Cluster::start(1);
    let operations = "put,get,range,put-if-none-match,put-if-match,delete,list";
    let flags = ["--operations", operations, "--sizes", "100KiB,0", "--requests", "40", "--objects", "20"];
    let refused = bench(&cluster.nodes[0].s3, &flags);
    assert!(stderr(&refused).contains("no such range"), "{}", stderr(&refused));
    let flags = [
        "--operations",
        operations,
        "--sizes",
        "100KiB,3",
        "--requests",
        "40",
        "--objects",
        "20",
        "--seconds",
        "60",
    ];
    let report = report(&cluster.nodes[0].s3, &flags);
    assert_eq!(report["rows"].as_array().unwrap().len(), 2 * 6 + 1);
    for row in report["rows"].as_array().unwrap() {
        assert_eq!(count(row, "errors"), 0, "{row}");
        assert!(count(row, "requests") > 0, "{row}");
        let latencies = ["p50_millis", "p90_millis", "p99_millis", "p999_millis", "max_millis"];
        let latencies: Vec<f64> = latencies.iter().map(|name| row[*name].as_f64().unwrap()).collect();
        assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{row}");
    }
    assert_eq!(count(row(&report, "get"), "requests"), 40);
    // Of each two that race for a key, one.
    assert_eq!(count(row(&report, "put-if-none-match"), "refused"), 20);
    assert!(count(row(&report, "put-if-match"), "refused") < 40);
    assert!(row(&report, "list")["keys_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(buckets(&cluster), "");
}

#[test]
fn a_mix_is_spread_over_endpoints_and_keeps_to_its_prefix_in_a_users_bucket() {
    let cluster = Cluster::start(2);
    let first = &cluster.nodes[0];
    boto3(
        &first.s3,
        "s3.create_bucket(Bucket='mine'); s3.put_object(Bucket='mine', Key='k', Body=b'v')",
        &[],
    );
    let flags = [
        "--endpoint",
        &cluster.nodes[1].s3,
        "--mix",
        "get=5,put=5,list=2,delete=3",
        "--sizes",
        "10KiB",
        "--objects",
        "10",
        "--bucket",
        "mine",
        "--requests",
        "200",
        "--seconds",
        "60",
    ];
    let report = report(&first.s3, &flags);
    let parts: u64 = ["mixed/get", "mixed/put", "mixed/list", "mixed/delete"]
        .iter()
        .map(|part| count(row(&report, part), "requests"))
        .sum();
    assert_eq!((parts, count(row(&report, "mixed"), "requests")), (200, 200), "{report}");
    assert_eq!(count(row(&report, "mixed"), "errors"), 0, "{report}");
    for node in &cluster.nodes {
        let output = Command::new("curl").args(["-s", &format!("{}/metrics", node.admin)]).output().unwrap();
        let metrics = String::from_utf8_lossy(&output.stdout).into_owned();
        let gets = metrics.lines().find(|line| {
            line.contains("_requests_total{") && line.contains("GetObject") && line.contains("\"ok\"")
        });
        assert!(gets.is_some(), "a node got no get: {metrics}");
    }
    let keys = "print([o['Key'] for o in s3.list_objects_v2(Bucket='mine')['Contents']], end='')";
    assert_eq!(boto3(&first.s3, keys, &[]), "['k']");
}

#[test]
fn two_stores_and_two_runs_are_held_against_each_other() {
    let cluster = Cluster::start(1);
    let s3 = &cluster.nodes[0].s3;
    let flags = ["--operations", "put,get", "--sizes", "4KiB", "--seconds", "2", "--requests", "20"];
    let turns = report(s3, &[&flags[..], &["--against", s3]].concat());
    let ratios = turns["ratios"].as_array().unwrap();
    assert_eq!(ratios.len(), 2, "{turns}");
    for ratio in ratios {
        assert_eq!(ratio["slices"], 2, "{ratio}");
        let throughput = |name: &str| ratio[name].as_f64().unwrap();
        assert!(throughput("throughput_min") <= throughput("throughput"), "{ratio}");
        assert!(throughput("throughput") <= throughput("throughput_max"), "{ratio}");
        assert!(throughput("p50") > 0.0, "{ratio}");
    }
    let stores: Vec<&Value> = turns["rows"].as_array().unwrap().iter().map(|row| &row["store"]).collect();
    assert_eq!(stores, ["tested", "against", "tested", "against"]);

    let earlier = cluster.path("earlier.json");
    std::fs::write(&earlier, turns.to_string()).unwrap();
    let earlier = earlier.to_str().unwrap();
    let later = report(s3, &[&flags[..], &["--compare", earlier]].concat());
    let stores: Vec<&Value> = later["rows"].as_array().unwrap().iter().map(|row| &row["store"]).collect();
    assert_eq!(stores, ["tested", "tested", "earlier", "earlier"]);
    let (ours, theirs) = (&later["rows"][1], &later["rows"][3]);
    let quotient =
        ours["requests_per_second"].as_f64().unwrap() / theirs["requests_per_second"].as_f64().unwrap();
    let ratio = later["ratios"][1]["throughput"].as_f64().unwrap();
    assert!((ratio / quotient - 1.0).abs() < 1e-6, "{ratio} {quotient}");

    let other = bench(s3, &[&flags[..], &["--compare", earlier, "--objects", "7"]].concat());
    assert_eq!(other.status.code(), Some(3));
    assert!(stderr(&other).contains("objects: null then, 7 now"), "{}", stderr(&other));
    assert_eq!(buckets(&cluster), "");
}

#[test]
fn ctrl_c_ends_a_run_and_takes_its_bucket_away() {
    let cluster = Cluster::start(1);
    let flags = ["--operations", "put", "--sizes", "1KiB", "--seconds", "600"];
    let mut command = bench_command(&cluster.nodes[0].s3, &flags);
    let mut bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("there are objects", || {
        let keys = "
for bucket in s3.list_buckets()['Buckets']:
    print(s3.list_objects_v2(Bucket=bucket['Name'])['KeyCount'], end='')";
        !["", "0"].contains(&boto3(&cluster.nodes[0].s3, keys, &[]).as_str())
    });
    interrupt(&bench);
    let status = bench.wait().unwrap();
    let mut said = String::new();
    bench.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("stopped before it was done"), "{said}");
    assert_eq!(buckets(&cluster), "");
}

/// A store that keeps what is put and does everything wrong that it can: it turns a bit in
/// each object that it gives, hides a key, and ignores conditions.
const LIAR: &str = r#"
import http.server, itertools, urllib.parse
kept, etags = {}, itertools.count()

class Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def answer(self, status, body=b'', **headers):
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)
    def key(self): return urllib.parse.urlsplit(self.path).path
    def body(self): return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    def do_HEAD(self): self.answer(200)
    def do_DELETE(self):
        kept.pop(self.key(), None)
        self.answer(204)
    def do_POST(self):
        self.body()
        kept.clear()
        self.answer(200, b'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
    def do_PUT(self):
        kept[self.key()] = self.body()
        self.answer(200, ETag='"%d"' % next(etags))
    def do_GET(self):
        if 'list-type' in self.path:
            contents = ''.join('<Contents><Key>%s</Key><LastModified>x</LastModified><ETag>x</ETag><Size>1</Size></Contents>'
                % key.split('/', 2)[2] for key in [key for key in sorted(kept) if '/objects/' in key][1:])
            return self.answer(200, ('<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                '<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>%s</ListBucketResult>' % contents).encode())
        body = bytearray(kept[self.key()])
        body[len(body) // 2] ^= 1
        self.answer(200, bytes(body))

server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Liar)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Liar {
    child: Child,
    endpoint: String,
}

impl Liar {
    fn start() -> Self {
        let mut child =
            Command::new("python3").args(["-c", LIAR]).stdout(Stdio::piped()).spawn().expect("python3 runs");
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        Self { child, endpoint: format!("http://127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_store_that_lies_is_found_out() {
    let liar = Liar::start();
    let cases = [
        ("get", "WrongBytes"),
        ("range", "WrongBytes"),
        ("list", "WrongListing"),
        ("put-if-none-match", "ConditionIgnored"),
    ];
    for (operation, code) in cases {
        let flags = ["--operations", operation, "--sizes", "100KiB", "--requests", "8", "--objects", "4"];
        let output = bench(&liar.endpoint, &flags);
        assert_eq!(output.status.code(), Some(1), "{operation}: {}", stderr(&output));
        assert!(stderr(&output).contains("a store answers wrongly"), "{operation}: {}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(count(&row(&report, operation)["errors_by_code"], code) > 0, "{report}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let cases: [(&[&str], &str); 10] = [
        (&["--sizes", "6GiB"], "at most 5 GiB"),
        (&["--sizes", "4KiB,4096"], "twice"),
        (&["--mix", "get=1,fetch=2"], "can't be mixed in"),
        (&["--mix", "delete=1"], "deletes more than it puts"),
        (&["--mix", "get=1", "--operations", "put"], "nothing is mixed"),
        (&["--range", "1KiB"], "none is got"),
        (&["--endpoint", "ftp://127.0.0.1"], "not an S3 endpoint"),
        (&["--against", "http://127.0.0.1:1", "--slice", "20"], "does not fit"),
        (&["--requests", "0"], "measure nothing"),
        (&["--compare", "/nowhere/earlier.json"], "can't be read"),
    ];
    for (flags, said) in cases {
        let output = bench("http://127.0.0.1:1", flags);
        assert!(matches!(output.status.code(), Some(2 | 3)), "{flags:?}: {output:?}");
        assert!(stderr(&output).contains(said), "{flags:?}: {}", stderr(&output));
    }
    let nobody = bench("http://127.0.0.1:1", &["--requests", "1"]);
    assert_eq!(nobody.status.code(), Some(4));
    assert!(stderr(&nobody).contains("hint: is the endpoint right"), "{}", stderr(&nobody));
}
