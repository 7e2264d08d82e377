//! DeleteObject and DeleteObjects.

use atoll_objects::{DeleteObject, DeleteObjectError, ETagCondition, WriteConditions};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
        Error as KeyError, ObjectIdentifier,
    },
    s3_error,
};

use super::{
    S3Operations,
    error::{IntoS3, not_implemented},
    get::refuse_versions,
    headers,
};

/// S3's limit for one request.
const KEYS_MAX: usize = 1000;

impl S3Operations {
    pub(crate) async fn delete(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let access_key = req.credentials.as_ref().map(|credentials| credentials.access_key.as_str());
        let input = req.input;
        refuse_versions(input.version_id.as_deref())?;
        let delete = DeleteObject {
            idempotency: headers::idempotency(
                &req.headers,
                access_key,
                &req.method,
                &input.bucket,
                &input.key,
            ),
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            conditions: headers::write_conditions(&req.headers),
        };
        self.objects.delete(delete).await.map_err(IntoS3::into_s3)?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub(crate) async fn delete_many(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let bucket = headers::bucket(&input.bucket)?;
        if input.delete.objects.is_empty() || input.delete.objects.len() > KEYS_MAX {
            return Err(s3_error!(MalformedXML, "A request deletes 1 to {KEYS_MAX} keys"));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        let mut plain = Vec::new();
        for object in input.delete.objects {
            let text = object.key.clone();
            let key =
                refuse_versions(object.version_id.as_deref()).and_then(|()| headers::key(object.key.clone()));
            match (key, conditions(&object)) {
                (Ok(key), Ok(None)) => plain.push(key),
                (Ok(key), Ok(Some(conditions))) => {
                    let delete = DeleteObject { bucket: bucket.clone(), key, conditions, idempotency: None };
                    match self.objects.delete(delete).await {
                        Ok(_) => deleted.push(deleted_object(text)),
                        Err(DeleteObjectError::NoSuchBucket(name)) => {
                            return Err(DeleteObjectError::NoSuchBucket(name).into_s3());
                        }
                        Err(error) => errors.push(key_error(text, &error.into_s3())),
                    }
                }
                (Err(error), _) | (_, Err(error)) => errors.push(key_error(text, &error)),
            }
        }
        if !plain.is_empty() {
            for (key, result) in self.objects.delete_many(&bucket, plain).await.map_err(IntoS3::into_s3)? {
                let text = headers::key_text(&key);
                match result {
                    Ok(_) => deleted.push(deleted_object(text)),
                    Err(error) => errors.push(key_error(text, &error.into_s3())),
                }
            }
        }
        let output = DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: (!errors.is_empty()).then_some(errors),
            request_charged: None,
        };
        Ok(S3Response::new(output))
    }
}

fn conditions(object: &ObjectIdentifier) -> S3Result<Option<WriteConditions>> {
    if object.size.is_some() || object.last_modified_time.is_some() {
        return Err(not_implemented("A delete on condition of size or time"));
    }
    let Some(etag) = &object.e_tag else { return Ok(None) };
    let if_match = match etag.value() {
        "*" => ETagCondition::Any,
        value => ETagCondition::OneOf(vec![value.to_owned()]),
    };
    Ok(Some(WriteConditions { if_match: Some(if_match), if_none_match: None }))
}

fn deleted_object(key: String) -> DeletedObject {
    DeletedObject { key: Some(key), ..Default::default() }
}

fn key_error(key: String, error: &S3Error) -> KeyError {
    KeyError {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        version_id: None,
    }
}
