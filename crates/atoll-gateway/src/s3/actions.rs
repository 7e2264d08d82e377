//! Which of S3's actions each operation is: what `atoll-access` decides about. An operation
//! that is not here is not implemented, whoever asks.

/// S3's name for an operation, which is also its label in metrics and logs; its action in
/// policies; and its action when the request names a version.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) action: &'static str,
    pub(crate) of_version: &'static str,
}

/// What other operations are counted under.
pub(crate) const OTHER: &str = "Other";

impl Operation {
    pub(crate) fn find(name: &str) -> Option<&'static Operation> {
        OPERATIONS.iter().find(|operation| operation.name == name)
    }
}

const fn plain(name: &'static str, action: &'static str) -> Operation {
    Operation { name, action, of_version: action }
}

const fn versioned(name: &'static str, action: &'static str, of_version: &'static str) -> Operation {
    Operation { name, action, of_version }
}

const OPERATIONS: &[Operation] = &[
    versioned("GetObject", "s3:GetObject", "s3:GetObjectVersion"),
    versioned("HeadObject", "s3:GetObject", "s3:GetObjectVersion"),
    plain("PutObject", "s3:PutObject"),
    // Reading the source is decided beside it.
    plain("CopyObject", "s3:PutObject"),
    versioned("DeleteObject", "s3:DeleteObject", "s3:DeleteObjectVersion"),
    // Decided key by key.
    plain("DeleteObjects", "s3:DeleteObject"),
    versioned("GetObjectAttributes", "s3:GetObjectAttributes", "s3:GetObjectVersionAttributes"),
    versioned("GetObjectTagging", "s3:GetObjectTagging", "s3:GetObjectVersionTagging"),
    versioned("PutObjectTagging", "s3:PutObjectTagging", "s3:PutObjectVersionTagging"),
    versioned("DeleteObjectTagging", "s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging"),
    versioned("GetObjectAcl", "s3:GetObjectAcl", "s3:GetObjectVersionAcl"),
    versioned("PutObjectAcl", "s3:PutObjectAcl", "s3:PutObjectVersionAcl"),
    // Decided when its fields are read.
    plain("PostObject", "s3:PutObject"),
    plain("ListObjects", "s3:ListBucket"),
    plain("ListObjectsV2", "s3:ListBucket"),
    plain("ListObjectVersions", "s3:ListBucketVersions"),
    plain("CreateBucket", "s3:CreateBucket"),
    plain("DeleteBucket", "s3:DeleteBucket"),
    plain("HeadBucket", "s3:ListBucket"),
    plain("ListBuckets", "s3:ListAllMyBuckets"),
    plain("GetBucketLocation", "s3:GetBucketLocation"),
    plain("GetBucketVersioning", "s3:GetBucketVersioning"),
    plain("PutBucketVersioning", "s3:PutBucketVersioning"),
    plain("GetBucketAcl", "s3:GetBucketAcl"),
    plain("PutBucketAcl", "s3:PutBucketAcl"),
    plain("GetBucketOwnershipControls", "s3:GetBucketOwnershipControls"),
    plain("PutBucketOwnershipControls", "s3:PutBucketOwnershipControls"),
    plain("DeleteBucketOwnershipControls", "s3:PutBucketOwnershipControls"),
    plain("GetBucketPolicy", "s3:GetBucketPolicy"),
    plain("PutBucketPolicy", "s3:PutBucketPolicy"),
    plain("DeleteBucketPolicy", "s3:DeleteBucketPolicy"),
    plain("GetBucketPolicyStatus", "s3:GetBucketPolicyStatus"),
    plain("GetPublicAccessBlock", "s3:GetBucketPublicAccessBlock"),
    plain("PutPublicAccessBlock", "s3:PutBucketPublicAccessBlock"),
    plain("DeletePublicAccessBlock", "s3:PutBucketPublicAccessBlock"),
    plain("GetBucketCors", "s3:GetBucketCORS"),
    plain("PutBucketCors", "s3:PutBucketCORS"),
    plain("DeleteBucketCors", "s3:PutBucketCORS"),
    plain("GetBucketTagging", "s3:GetBucketTagging"),
    plain("PutBucketTagging", "s3:PutBucketTagging"),
    plain("DeleteBucketTagging", "s3:PutBucketTagging"),
    plain("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration"),
    plain("PutBucketLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
    plain("DeleteBucketLifecycle", "s3:PutLifecycleConfiguration"),
    plain("GetBucketEncryption", "s3:GetEncryptionConfiguration"),
    plain("PutBucketEncryption", "s3:PutEncryptionConfiguration"),
    plain("DeleteBucketEncryption", "s3:PutEncryptionConfiguration"),
    plain("CreateMultipartUpload", "s3:PutObject"),
    plain("UploadPart", "s3:PutObject"),
    plain("UploadPartCopy", "s3:PutObject"),
    plain("CompleteMultipartUpload", "s3:PutObject"),
    plain("AbortMultipartUpload", "s3:AbortMultipartUpload"),
    plain("ListParts", "s3:ListMultipartUploadParts"),
    plain("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_an_action_that_can_be_decided() {
        for operation in OPERATIONS {
            for action in [operation.action, operation.of_version] {
                assert!(atoll_access::Action::find(action).is_some(), "{}: {action}", operation.name);
            }
        }
    }
}
