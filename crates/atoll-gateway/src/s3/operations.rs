//! The table from `s3s`'s operations to the verbs. What is not here answers
//! `NotImplemented`.

use s3s::{S3, S3Request, S3Response, S3Result, dto::*};

use super::S3Operations;

macro_rules! operations {
    ($($name:ident($input:ident) -> $output:ident = $verb:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for S3Operations {
            $(
                async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                    self.$verb(req).await
                }
            )*
        }
    };
}

operations! {
    list_buckets(ListBucketsInput) -> ListBucketsOutput = list_all;
    create_bucket(CreateBucketInput) -> CreateBucketOutput = create;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = delete_empty;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = head_existing;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = location;
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = versioning;
    put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput = set_versioning;
    get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = policy;
    put_bucket_policy(PutBucketPolicyInput) -> PutBucketPolicyOutput = put_policy;
    delete_bucket_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput = delete_policy;
    get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput = policy_status;
    get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput = access_block;
    put_public_access_block(PutPublicAccessBlockInput) -> PutPublicAccessBlockOutput = put_access_block;
    delete_public_access_block(DeletePublicAccessBlockInput) -> DeletePublicAccessBlockOutput = delete_access_block;
    get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = bucket_acl;
    get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = object_acl;
    put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput = put_bucket_acl_to;
    put_object_acl(PutObjectAclInput) -> PutObjectAclOutput = put_object_acl_to;
    get_bucket_ownership_controls(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput = ownership;
    put_bucket_ownership_controls(PutBucketOwnershipControlsInput) -> PutBucketOwnershipControlsOutput = set_ownership;
    delete_bucket_ownership_controls(DeleteBucketOwnershipControlsInput) -> DeleteBucketOwnershipControlsOutput = delete_ownership;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = object_tags;
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput = put_object_tags;
    delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput = delete_object_tags;
    get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = bucket_tags;
    put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput = put_bucket_tags;
    delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput = delete_bucket_tags;
    get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput = attributes;
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput = lifecycle;
    put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput) -> PutBucketLifecycleConfigurationOutput = set_lifecycle;
    delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput = delete_lifecycle;
    get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = bucket_encryption;
    put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput = set_bucket_encryption;
    delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput = delete_bucket_encryption;
    get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = cors;
    put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput = set_cors;
    delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput = delete_cors;
    get_object(GetObjectInput) -> GetObjectOutput = get;
    head_object(HeadObjectInput) -> HeadObjectOutput = head;
    put_object(PutObjectInput) -> PutObjectOutput = put;
    post_object(PostObjectInput) -> PostObjectOutput = post_form;
    copy_object(CopyObjectInput) -> CopyObjectOutput = copy;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = delete;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = delete_many;
    list_objects(ListObjectsInput) -> ListObjectsOutput = list_v1;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = list_v2;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput = list_versions;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = create_upload;
    upload_part(UploadPartInput) -> UploadPartOutput = put_part;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = copy_part;
    list_parts(ListPartsInput) -> ListPartsOutput = parts;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = uploads;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput = complete;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = abort;
}
