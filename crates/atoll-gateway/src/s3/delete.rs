//! DeleteObject and DeleteObjects.

use atoll_objects::{DeleteKey, DeleteObject, Deleted, ETagCondition, WriteConditions};
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
        Error as KeyError, ObjectIdentifier,
    },
    s3_error,
};

use super::{
    S3Operations,
    caller::Caller,
    error::{IntoS3, not_implemented},
    headers,
    versions::{self, version_text},
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
        // Deletes of two versions are two writes, whatever they are called.
        let name = match &input.version_id {
            None => input.key.clone(),
            Some(version) => format!("{}\0{version}", input.key),
        };
        let delete = DeleteObject {
            idempotency: headers::idempotency(&req.headers, access_key, &req.method, &input.bucket, &name),
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            version: versions::version(input.version_id.as_deref())?,
            conditions: headers::write_conditions(&req.headers),
        };
        let deleted = self.objects.delete(delete).await.map_err(IntoS3::into_s3)?;
        let output = DeleteObjectOutput {
            delete_marker: deleted.marker.then_some(true),
            version_id: version_text(deleted.version),
            request_charged: None,
        };
        Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
    }

    pub(crate) async fn delete_many(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let caller = Caller::of(&req.extensions)?;
        let input = req.input;
        let bucket = headers::bucket(&input.bucket)?;
        if input.delete.objects.is_empty() || input.delete.objects.len() > KEYS_MAX {
            return Err(s3_error!(MalformedXML, "A request deletes 1 to {KEYS_MAX} keys"));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        let (mut asked, mut keys) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            let action = match object.version_id {
                Some(_) => "s3:DeleteObjectVersion",
                None => "s3:DeleteObject",
            };
            if let Err(error) = caller.must(action, Some(&object.key)).await {
                if *error.code() != S3ErrorCode::AccessDenied {
                    return Err(error);
                }
                errors.push(key_error(object, &error));
                continue;
            }
            match delete_key(&object) {
                Ok(key) => {
                    asked.push(object);
                    keys.push(key);
                }
                Err(error) => errors.push(key_error(object, &error)),
            }
        }
        if !keys.is_empty() {
            let results = self.objects.delete_many(&bucket, keys).await.map_err(IntoS3::into_s3)?;
            for (object, (_, result)) in asked.into_iter().zip(results) {
                match result {
                    Ok(one) => deleted.push(deleted_object(object, one)),
                    Err(error) => errors.push(key_error(object, &error.into_s3())),
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

fn delete_key(object: &ObjectIdentifier) -> S3Result<DeleteKey> {
    Ok(DeleteKey {
        key: headers::key(object.key.clone())?,
        version: versions::version(object.version_id.as_deref())?,
        conditions: conditions(object)?,
    })
}

fn conditions(object: &ObjectIdentifier) -> S3Result<WriteConditions> {
    if object.size.is_some() || object.last_modified_time.is_some() {
        return Err(not_implemented("A delete on condition of size or time"));
    }
    let Some(etag) = &object.e_tag else { return Ok(WriteConditions::default()) };
    let if_match = match etag.value() {
        "*" => ETagCondition::Any,
        value => ETagCondition::OneOf(vec![value.to_owned()]),
    };
    Ok(WriteConditions { if_match: Some(if_match), if_none_match: None })
}

fn deleted_object(asked: ObjectIdentifier, deleted: Deleted) -> DeletedObject {
    DeletedObject {
        delete_marker: deleted.marker.then_some(true),
        delete_marker_version_id: version_text(deleted.version.filter(|_| deleted.marker)),
        key: Some(asked.key),
        version_id: asked.version_id,
    }
}

fn key_error(asked: ObjectIdentifier, error: &S3Error) -> KeyError {
    KeyError {
        code: Some(error.code().as_str().to_owned()),
        key: Some(asked.key),
        message: error.message().map(str::to_owned),
        version_id: asked.version_id,
    }
}
