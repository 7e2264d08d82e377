//! S3's actions: which right covers each, and what it is about. A door names the action
//! of each operation; an action that is not here is allowed to nobody.

use atoll_types::Permission;

use crate::Rights;

/// What an action is about, and so which resources a policy may name with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// About no bucket.
    Account,
    /// A bucket that is still to be made.
    NewBucket,
    Bucket,
    Object,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclOf {
    Bucket,
    Object,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    pub name: &'static str,
    pub right: Rights,
    pub scope: Scope,
}

impl Action {
    /// Names are compared without regard to case, as S3 does it.
    pub fn find(name: &str) -> Option<&'static Action> {
        ACTIONS.iter().find(|action| action.name.eq_ignore_ascii_case(name))
    }

    /// Whose ACL may allow it, and by which permission: "Mapping of ACL permissions and access
    /// policy permissions" of S3's user guide. What is not here no ACL allows.
    pub fn acl(&self) -> Option<(AclOf, Permission)> {
        Some(match self.name {
            "s3:ListBucket" | "s3:ListBucketVersions" | "s3:ListBucketMultipartUploads" => {
                (AclOf::Bucket, Permission::Read)
            }
            "s3:PutObject" | "s3:DeleteObject" => (AclOf::Bucket, Permission::Write),
            "s3:GetBucketAcl" => (AclOf::Bucket, Permission::ReadAcp),
            "s3:PutBucketAcl" => (AclOf::Bucket, Permission::WriteAcp),
            "s3:GetObject" | "s3:GetObjectVersion" => (AclOf::Object, Permission::Read),
            "s3:GetObjectAcl" | "s3:GetObjectVersionAcl" => (AclOf::Object, Permission::ReadAcp),
            "s3:PutObjectAcl" | "s3:PutObjectVersionAcl" => (AclOf::Object, Permission::WriteAcp),
            _ => return None,
        })
    }

    /// Changes what a bucket is or who may do what: an administrative act.
    pub fn is_act(&self) -> bool {
        self.right == Rights::MANAGE && !self.name.starts_with("s3:Get")
    }

    pub fn all() -> impl Iterator<Item = &'static Action> {
        ACTIONS.iter()
    }
}

const fn action(name: &'static str, right: Rights, scope: Scope) -> Action {
    Action { name, right, scope }
}

/// "Actions defined by Amazon S3" of the Service Authorization Reference, as far as they
/// are about general buckets and their objects.
const ACTIONS: &[Action] = &[
    action("s3:ListAllMyBuckets", Rights::READ, Scope::Account),
    action("s3:CreateBucket", Rights::MANAGE, Scope::NewBucket),
    // Reading a bucket.
    action("s3:GetBucketLocation", Rights::READ, Scope::Bucket),
    action("s3:GetBucketTagging", Rights::READ, Scope::Bucket),
    action("s3:GetBucketVersioning", Rights::READ, Scope::Bucket),
    action("s3:ListBucket", Rights::READ, Scope::Bucket),
    action("s3:ListBucketMultipartUploads", Rights::READ, Scope::Bucket),
    action("s3:ListBucketVersions", Rights::READ, Scope::Bucket),
    // Reading objects.
    action("s3:GetObject", Rights::READ, Scope::Object),
    action("s3:GetObjectAttributes", Rights::READ, Scope::Object),
    action("s3:GetObjectLegalHold", Rights::READ, Scope::Object),
    action("s3:GetObjectRetention", Rights::READ, Scope::Object),
    action("s3:GetObjectTagging", Rights::READ, Scope::Object),
    action("s3:GetObjectTorrent", Rights::READ, Scope::Object),
    action("s3:GetObjectVersion", Rights::READ, Scope::Object),
    action("s3:GetObjectVersionAttributes", Rights::READ, Scope::Object),
    action("s3:GetObjectVersionTagging", Rights::READ, Scope::Object),
    action("s3:ListMultipartUploadParts", Rights::READ, Scope::Object),
    // Writing objects.
    action("s3:AbortMultipartUpload", Rights::WRITE, Scope::Object),
    action("s3:DeleteObject", Rights::WRITE, Scope::Object),
    action("s3:DeleteObjectTagging", Rights::WRITE, Scope::Object),
    action("s3:DeleteObjectVersion", Rights::WRITE, Scope::Object),
    action("s3:DeleteObjectVersionTagging", Rights::WRITE, Scope::Object),
    action("s3:PutObject", Rights::WRITE, Scope::Object),
    action("s3:PutObjectTagging", Rights::WRITE, Scope::Object),
    action("s3:PutObjectVersionTagging", Rights::WRITE, Scope::Object),
    action("s3:RestoreObject", Rights::WRITE, Scope::Object),
    // Who may do what with objects, and what binds even their writers.
    action("s3:BypassGovernanceRetention", Rights::MANAGE, Scope::Object),
    action("s3:GetObjectAcl", Rights::MANAGE, Scope::Object),
    action("s3:GetObjectVersionAcl", Rights::MANAGE, Scope::Object),
    action("s3:ObjectOwnerOverrideToBucketOwner", Rights::MANAGE, Scope::Object),
    action("s3:PutObjectAcl", Rights::MANAGE, Scope::Object),
    action("s3:PutObjectLegalHold", Rights::MANAGE, Scope::Object),
    action("s3:PutObjectRetention", Rights::MANAGE, Scope::Object),
    action("s3:PutObjectVersionAcl", Rights::MANAGE, Scope::Object),
    // What a bucket is, and who may do what with it.
    action("s3:DeleteBucket", Rights::MANAGE, Scope::Bucket),
    action("s3:DeleteBucketPolicy", Rights::MANAGE, Scope::Bucket),
    action("s3:DeleteBucketWebsite", Rights::MANAGE, Scope::Bucket),
    action("s3:GetAccelerateConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetAnalyticsConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketAcl", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketCORS", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketLogging", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketNotification", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketObjectLockConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketOwnershipControls", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketPolicy", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketPolicyStatus", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketPublicAccessBlock", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketRequestPayment", Rights::MANAGE, Scope::Bucket),
    action("s3:GetBucketWebsite", Rights::MANAGE, Scope::Bucket),
    action("s3:GetEncryptionConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetIntelligentTieringConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetInventoryConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetLifecycleConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetMetricsConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:GetReplicationConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutAccelerateConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutAnalyticsConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketAcl", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketCORS", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketLogging", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketNotification", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketObjectLockConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketOwnershipControls", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketPolicy", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketPublicAccessBlock", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketRequestPayment", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketTagging", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketVersioning", Rights::MANAGE, Scope::Bucket),
    action("s3:PutBucketWebsite", Rights::MANAGE, Scope::Bucket),
    action("s3:PutEncryptionConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutIntelligentTieringConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutInventoryConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutLifecycleConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutMetricsConfiguration", Rights::MANAGE, Scope::Bucket),
    action("s3:PutReplicationConfiguration", Rights::MANAGE, Scope::Bucket),
];
