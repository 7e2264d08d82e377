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
        .args(["bench", "s3", "-o", "json", "--endpoint", endpoint, "--clients", "4"])
        .args(arguments)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    if !arguments.contains(&"--warm-up") {
        command.args(["--warm-up", "0"]);
    }
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
        "100KiB,8",
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
    // All four put over one version, again and again: one of them is not late.
    let late = count(row(&report, "put-if-match"), "refused");
    assert!((1..40).contains(&late), "{late} of 40 were refused");
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
    let flags = ["--operations", "put,delete", "--sizes", "4KiB", "--seconds", "60", "--requests", "5"];
    // Each has its requests once, not in each slice.
    let turns = report(s3, &[&flags[..], &["--against", s3, "--slice", "30"]].concat());
    for row in turns["rows"].as_array().unwrap() {
        assert_eq!(count(row, "requests"), 5, "{row}");
    }
    assert_eq!(turns["ratios"][0]["slices"], 1, "{turns}");

    let flags = ["--operations", "put,get", "--sizes", "4KiB", "--seconds", "2"];
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

/// A store that lies so often, and then no more: it turns a bit in what it gives, hides a key,
/// and ignores conditions. It may be asked to err otherwise: to keep what it should delete
/// (`keeps`), to list without heeding the prefix (`shows-all`), or to refuse all puts but let
/// one arrive after its first listing (`late`). One object is there from the start.
const LIAR: &str = r#"
import http.server, itertools, re, sys, threading, urllib.parse
lies_max, errs = int(sys.argv[1]), sys.argv[2]
lock, told, etags, listings = threading.Lock(), itertools.count(), itertools.count(), itertools.count()
kept = {'mine/theirs': (b'', '"theirs"')}

class Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def answer(self, status, body=b'', **headers):
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)
    def place(self): return urllib.parse.urlsplit(self.path).path[1:]
    def bucket(self): return self.place().partition('/')[0]
    def body(self): return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    def lies(self): return next(told) < lies_max
    def do_HEAD(self): self.answer(200, ETag=kept.get(self.place(), (b'', '"none"'))[1])
    def do_DELETE(self):
        kept.pop(self.place(), None)
        self.answer(204)
    def do_POST(self):
        keys = re.findall('<Key>(.*?)</Key>', self.body().decode())
        if errs == 'keeps': return self.answer(503)
        for key in keys: kept.pop(self.bucket() + '/' + key, None)
        self.answer(200, b'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
    def do_PUT(self):
        body, place = self.body(), self.place()
        if place.strip('/') == self.bucket(): return self.answer(200)
        if errs == 'late': return self.answer(503)
        with lock:
            etag = kept[place][1] if place in kept else None
            holds = self.headers.get('If-Match', etag) == etag
            if 'If-None-Match' in self.headers: holds = etag is None
            if holds or self.lies():
                etag = '"%d"' % next(etags)
                kept[place] = body, etag
                return self.answer(200, ETag=etag)
        self.answer(412)
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if 'list-type' in query:
            prefix = query.get('prefix', [''])[0]
            begin = self.bucket() + '/' + ('' if errs == 'shows-all' else prefix)
            keys = [place.partition('/')[2] for place in sorted(kept) if place.startswith(begin)]
            if self.lies(): keys = keys[1:]
            if errs == 'late' and next(listings) == 0: kept[begin + 'late'] = b'', '"late"'
            contents = ''.join('<Contents><Key>%s</Key><LastModified>x</LastModified><ETag>x</ETag><Size>1</Size></Contents>'
                % key for key in keys)
            return self.answer(200, ('<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                '<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>%s</ListBucketResult>' % contents).encode())
        body, status = bytearray(kept[self.place()][0]), 200
        if 'Range' in self.headers:
            start, end = re.findall('[0-9]+', self.headers['Range'])
            body, status = body[int(start):int(end) + 1], 206
        if self.lies(): body[len(body) // 2] ^= 1
        self.answer(status, bytes(body))

server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Liar)
print(server.server_port, flush=True)
server.serve_forever()
"#;

const ALWAYS: u32 = u32::MAX;

struct Liar {
    child: Child,
    endpoint: String,
}

impl Liar {
    fn start(lies: u32, errs: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", LIAR, &lies.to_string(), errs]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python3 runs");
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        Self { child, endpoint: format!("http://127.0.0.1:{}", port.trim()) }
    }

    /// The keys in the bucket `mine`, as the store shows them.
    fn keys(&self) -> Vec<String> {
        let url = format!("{}/mine?list-type=2", self.endpoint);
        let output = Command::new("curl").args(["-s", &url]).output().expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("ListBucketResult"), "{text}");
        let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        keys.map(|(key, _)| key.to_owned()).collect()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_store_that_lies_is_found_out_in_its_warm_up_too() {
    let cases = [
        ("get", "WrongBytes"),
        ("range", "WrongBytes"),
        ("list", "WrongListing"),
        ("put-if-none-match", "ConditionIgnored"),
        ("put-if-match", "ConditionIgnored"),
    ];
    for (operation, code) in cases {
        // The last is honest before anything counts.
        for (warm_up, lies) in [("0", ALWAYS), ("1", ALWAYS), ("1", 3)] {
            let liar = Liar::start(lies, "");
            let flags = ["--operations", operation, "--sizes", "100KiB", "--requests", "8"];
            let flags = [&flags[..], &["--objects", "4", "--warm-up", warm_up]].concat();
            let output = bench(&liar.endpoint, &flags);
            let case = format!("{operation}, {lies} lies, warm-up {warm_up}: {}", stderr(&output));
            assert_eq!(output.status.code(), Some(1), "{case}");
            assert!(stderr(&output).contains("a store answers wrongly"), "{case}");
            let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let row = row(&report, operation);
            assert!(count(&row["errors_by_code"], code) > 0, "{case} {report}");
            if lies != ALWAYS {
                assert_eq!(count(row, "requests"), 8, "{case} {report}");
            }
        }
    }
}

#[test]
fn what_can_not_be_taken_away_is_named_and_the_other_store_is_cleaned() {
    let (liar, cluster) = (Liar::start(ALWAYS, "keeps"), Cluster::start(1));
    let flags = ["--operations", "get", "--sizes", "1KiB", "--requests", "4", "--objects", "4"];
    let output = bench(&liar.endpoint, &[&flags[..], &["--against", &cluster.nodes[0].s3]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("a store answers wrongly"), "{}", stderr(&output));
    let left = stderr(&output).matches("not all of s3://atoll-bench-").count();
    assert_eq!(left, 1, "{}", stderr(&output));
    assert_eq!(buckets(&cluster), "");
}

#[test]
fn what_is_the_users_stays_even_if_a_listing_names_it() {
    let liar = Liar::start(0, "shows-all");
    let flags = ["--operations", "put", "--sizes", "1KiB", "--requests", "4", "--bucket", "mine"];
    let output = bench(&liar.endpoint, &flags);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("not all of s3://mine/atoll-bench-"), "{}", stderr(&output));
    assert!(stderr(&output).contains("\"theirs\", which was left"), "{}", stderr(&output));
    assert_eq!(liar.keys(), ["theirs"]);
}

#[test]
fn what_arrives_after_a_run_was_cut_off_is_taken_away() {
    let liar = Liar::start(0, "late");
    let flags = ["--operations", "get", "--sizes", "1KiB", "--objects", "4", "--bucket", "mine"];
    let output = bench(&liar.endpoint, &flags);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("does not take what to read"), "{}", stderr(&output));
    assert_eq!(liar.keys(), ["theirs"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let cases: [(&[&str], &str); 13] = [
        (&["--sizes", "6GiB"], "at most 5 GiB"),
        (&["--sizes", "4KiB,4096"], "twice"),
        (&["--operations", "get,put,get"], "get is there twice"),
        (&["--operations", "put-if-match", "--sizes", "4KiB,7"], "needs objects of 8 bytes"),
        (&["--mix", "get=1,put-if-match=1", "--sizes", "7"], "needs objects of 8 bytes"),
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
