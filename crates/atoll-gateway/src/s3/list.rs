//! ListObjects, both versions, and the escaping that listings share.

use atoll_objects::{ListEntry, ListObjects, ObjectPage};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
        ListObjectsV2Output, Object, ObjectStorageClass, Owner,
    },
    s3_error,
};

use super::{S3Operations, caller::Caller, error::IntoS3, headers};

/// S3's pages have at most this many keys and common prefixes.
pub(crate) const PAGE_MAX: i32 = 1000;

/// What `encoding-type=url` leaves as it is. A space becomes `%20` and not `+`, which
/// every client decodes.
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b'*');

/// How one listing writes the names in it.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    url: bool,
}

impl Names {
    pub(crate) const URL: Names = Names { url: true };

    pub(crate) fn of(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { url: false }),
            Some(EncodingType::URL) => Ok(Self { url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    pub(crate) fn write(self, name: &[u8]) -> String {
        if self.url {
            percent_encode(name, KEPT).to_string()
        } else {
            String::from_utf8_lossy(name).into_owned()
        }
    }

    pub(crate) fn prefixes(self, prefixes: &[Bytes]) -> Option<Vec<CommonPrefix>> {
        let prefixes = prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(self.write(prefix)) });
        Some(prefixes.collect::<Vec<_>>()).filter(|prefixes| !prefixes.is_empty())
    }
}

/// A page's size as asked, within S3's limit.
pub(crate) fn page_size(asked: Option<i32>, name: &str) -> S3Result<usize> {
    let asked = asked.unwrap_or(PAGE_MAX);
    usize::try_from(asked.min(PAGE_MAX))
        .map_err(|_| s3_error!(InvalidArgument, "Argument {name} must not be negative"))
}

impl S3Operations {
    pub(crate) async fn list_v1(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let caller = Caller::of(&req.extensions)?;
        let input = req.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let page =
            self.page(&input.bucket, &input.prefix, &delimiter, input.marker.clone().map(Bytes::from), limit);
        let page = page.await?;
        let owner = caller.owner().await?;
        let output = ListObjectsOutput {
            common_prefixes: names.prefixes(&page.common_prefixes),
            contents: contents(names, &page.entries, Some(&owner)),
            is_truncated: Some(page.next.is_some()),
            // S3 says it only where it is not simply the last key.
            next_marker: page.next.filter(|_| delimiter.is_some()).map(|next| names.write(&next)),
            delimiter: delimiter.map(|delimiter| names.write(delimiter.as_bytes())),
            encoding_type: input.encoding_type,
            marker: Some(names.write(input.marker.unwrap_or_default().as_bytes())),
            max_keys: Some(limit as i32),
            name: Some(input.bucket),
            prefix: Some(names.write(input.prefix.unwrap_or_default().as_bytes())),
            request_charged: None,
        };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn list_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let caller = Caller::of(&req.extensions)?;
        let input = req.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let after = match &input.continuation_token {
            Some(token) => Some(read_token(token)?),
            None => input.start_after.clone().map(Bytes::from),
        };
        let page = self.page(&input.bucket, &input.prefix, &delimiter, after, limit).await?;
        let owner = match input.fetch_owner {
            Some(true) => Some(caller.owner().await?),
            Some(false) | None => None,
        };
        let output = ListObjectsV2Output {
            common_prefixes: names.prefixes(&page.common_prefixes),
            contents: contents(names, &page.entries, owner.as_ref()),
            continuation_token: input.continuation_token,
            delimiter: delimiter.map(|delimiter| names.write(delimiter.as_bytes())),
            encoding_type: input.encoding_type,
            is_truncated: Some(page.next.is_some()),
            key_count: Some((page.entries.len() + page.common_prefixes.len()) as i32),
            max_keys: Some(limit as i32),
            name: Some(input.bucket),
            next_continuation_token: page.next.as_ref().map(|next| write_token(next)),
            prefix: Some(names.write(input.prefix.unwrap_or_default().as_bytes())),
            request_charged: None,
            start_after: input.start_after.map(|after| names.write(after.as_bytes())),
        };
        Ok(S3Response::new(output))
    }

    async fn page(
        &self,
        bucket: &str,
        prefix: &Option<String>,
        delimiter: &Option<String>,
        start_after: Option<Bytes>,
        limit: usize,
    ) -> S3Result<ObjectPage> {
        let bucket = headers::bucket(bucket)?;
        if limit == 0 {
            // S3 answers an empty page, and says that there is no more.
            self.objects.head_bucket(&bucket).await.map_err(IntoS3::into_s3)?;
            return Ok(ObjectPage::default());
        }
        let request = ListObjects {
            bucket,
            prefix: prefix.clone().unwrap_or_default().into(),
            delimiter: delimiter.clone().map(Bytes::from),
            start_after: start_after.filter(|after| !after.is_empty()),
            limit,
        };
        self.objects.list(request).await.map_err(IntoS3::into_s3)
    }
}

fn contents(names: Names, entries: &[ListEntry], owner: Option<&Owner>) -> Option<Vec<Object>> {
    let objects = entries.iter().map(|entry| Object {
        e_tag: Some(headers::etag(&entry.etag)),
        key: Some(names.write(entry.key.as_bytes())),
        last_modified: Some(headers::timestamp(entry.modified)),
        owner: owner.cloned(),
        size: Some(entry.size as i64),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    });
    Some(objects.collect::<Vec<_>>()).filter(|objects| !objects.is_empty())
}

/// A continuation token holds a key, never a shard (rule 12): `1` for its version, and
/// the key.
fn write_token(key: &[u8]) -> String {
    format!("1{}", BASE64URL_NOPAD.encode(key))
}

fn read_token(token: &str) -> S3Result<Bytes> {
    let key = token.strip_prefix('1').and_then(|key| BASE64URL_NOPAD.decode(key.as_bytes()).ok());
    key.map(Bytes::from)
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_its_key_and_anything_else_is_refused() {
        for key in ["", "a", "a/b//../\u{e9}"] {
            assert_eq!(read_token(&write_token(key.as_bytes())).unwrap(), key.as_bytes());
        }
        for token in ["", "2AAAA", "1!!!", "garbage"] {
            assert!(read_token(token).is_err(), "{token}");
        }
    }

    #[test]
    fn names_are_escaped_so_that_any_decoder_reads_them() {
        let names = Names { url: true };
        assert_eq!(names.write("a b+c/é\u{1}".as_bytes()), "a%20b%2Bc/%C3%A9%01");
    }
}
