//! The tests that the `object_store` crate brings for whoever implements a store: what
//! software in Rust (DataFusion, Delta Lake, Lance, …) asks of an S3.
//!
//! Left out: `response_extensions`, which is about the crate's own HTTP client. Here it is
//! given hyper's, which is built anyway; the crate's choice would bring another TLS.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use object_store::{
    ClientOptions, Error, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, TagSet,
    aws::{AmazonS3, AmazonS3Builder, Checksum, S3CopyIfNotExists},
    client::{
        HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
        HttpService,
    },
    integration::{
        copy_if_not_exists, copy_rename_nonexistent_object, get_nonexistent_object, get_opts, list_paginated,
        list_uses_directories_correctly, list_with_delimiter, list_with_offset_exclusivity, multipart,
        multipart_out_of_order, multipart_put_part_out_of_order, multipart_race_condition,
        multipart_with_opts, put_get_attributes, put_get_delete_list, put_opts, rename_and_copy, stream_get,
    },
    path::Path,
    signer::Signer,
};

use crate::harness::{ACCESS_KEY, Cluster, SECRET_KEY, boto3};

#[derive(Debug)]
struct Hyper(Client<HttpConnector, HttpRequestBody>);

#[async_trait]
impl HttpService for Hyper {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.0.request(request).await;
        let answer = answer.map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
        let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
        Ok(answer.map(|body| HttpResponseBody::new(body.map_err(broken))))
    }
}

#[derive(Debug)]
struct ByHyper;

impl object_store::client::HttpConnector for ByHyper {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Hyper(Client::builder(TokioExecutor::new()).build_http())))
    }
}

/// Stores of buckets that nobody has used.
struct Fresh<'a> {
    endpoint: &'a str,
    buckets: std::ops::Range<u32>,
}

impl Fresh<'_> {
    fn with(&mut self, how: impl FnOnce(AmazonS3Builder) -> AmazonS3Builder) -> AmazonS3 {
        let number = self.buckets.next().expect("there are enough buckets");
        let builder = AmazonS3Builder::new()
            .with_endpoint(self.endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(format!("bucket{number}"))
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
            .with_http_connector(ByHyper);
        how(builder).build().expect("all that it needs is set")
    }

    fn store(&mut self) -> AmazonS3 {
        self.with(|builder| builder)
    }
}

#[test]
fn the_object_store_crates_own_tests_pass() {
    let cluster = Cluster::start(1);
    let endpoint = &cluster.nodes[0].s3;
    boto3(endpoint, "for number in range(30): s3.create_bucket(Bucket=f'bucket{number}')", &[]);
    let mut fresh = Fresh { endpoint, buckets: 0..30 };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        put_get_delete_list(&fresh.store()).await;
        list_with_offset_exclusivity(&fresh.store()).await;
        list_uses_directories_correctly(&fresh.store()).await;
        list_with_delimiter(&fresh.store()).await;
        get_opts(&fresh.store()).await;
        put_opts(&fresh.store(), true).await;
        put_get_attributes(&fresh.store()).await;
        stream_get(&fresh.store()).await;
        rename_and_copy(&fresh.store()).await;
        copy_if_not_exists(&fresh.store()).await;
        copy_rename_nonexistent_object(&fresh.store()).await;
        multipart_out_of_order(&fresh.store()).await;
        multipart_race_condition(&fresh.store(), true).await;
        let s3 = fresh.store();
        list_paginated(&s3, &s3).await;
        let s3 = fresh.store();
        multipart(&s3, &s3).await;
        multipart_with_opts(&s3, &s3).await;
        multipart_put_part_out_of_order(&s3, &s3).await;
        let missing = get_nonexistent_object(&s3, None).await;
        assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
        // With each way to sign and to sum up what is sent.
        put_get_delete_list(&fresh.with(|builder| builder.with_unsigned_payload(true))).await;
        for checksum in [Checksum::SHA256, Checksum::CRC64NVME] {
            let summed = fresh.with(|builder| builder.with_checksum_algorithm(checksum));
            put_get_delete_list(&summed).await;
            multipart(&summed, &summed).await;
        }
        // And encrypted by a customer's key.
        let key = data_encoding::BASE64.encode(&[7; 32]);
        let sealed = fresh.with(|builder| builder.with_ssec_encryption(key));
        put_get_delete_list(&sealed).await;
        multipart(&sealed, &sealed).await;

        // Its tests of tags and of signed URLs are not public.
        let mut tags = TagSet::default();
        tags.push("foo.com=bar/s", "bananas/foo.com-_");
        tags.push("namespace/key.foo", "value with a space");
        let path = Path::from("tagged");
        let s3 = fresh.with(|builder| builder.with_bucket_name("bucket0"));
        s3.put_opts(&path, PutPayload::from("hello"), PutOptions::from(tags)).await.unwrap();
        let url = s3.signed_url(http::Method::GET, &path, Duration::from_secs(60)).await.unwrap();
        let script = r#"
import urllib.request
assert urllib.request.urlopen(sys.argv[1]).read() == b'hello'
tags = s3.get_object_tagging(Bucket='bucket0', Key='tagged')['TagSet']
assert sorted((tag['Key'], tag['Value']) for tag in tags) == [
    ('foo.com=bar/s', 'bananas/foo.com-_'), ('namespace/key.foo', 'value with a space')], tags
"#;
        boto3(endpoint, script, &[url.as_str()]);
        let nowhere = fresh.with(|builder| builder.with_bucket_name("nowhere"));
        let (got, put) =
            (nowhere.get(&path).await.err(), nowhere.put(&path, PutPayload::from("x")).await.err());
        for answer in [got, put] {
            assert!(matches!(answer, Some(Error::NotFound { .. })), "{answer:?}");
        }
    });
}
