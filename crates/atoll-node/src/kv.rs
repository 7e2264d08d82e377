//! Keys, values and locks for people: the records crate's own commands, in the admin
//! API's words.

use atoll_gateway::admin::{
    AdminError, AdminErrorKind,
    api::{
        KvDeleteRequest, KvEvent, KvListRequest, KvPage, KvPutRequest, KvRecord, KvWatchRequest, KvWritten,
        LeaseRequest, LockAnswer, LockRequest,
    },
};
use atoll_records::Records;
use atoll_runtime::Runtime;
use futures_util::stream::BoxStream;

pub struct Kv {
    pub runtime: Runtime,
    pub records: Records,
}

fn not_yet<T>() -> Result<T, AdminError> {
    Err(AdminError::new(AdminErrorKind::Unavailable, "not_yet", "records are not served yet"))
}

impl Kv {
    pub async fn get(&self, _key: &str) -> Result<KvRecord, AdminError> {
        not_yet()
    }
    pub async fn put(&self, _request: KvPutRequest) -> Result<KvWritten, AdminError> {
        not_yet()
    }
    pub async fn delete(&self, _request: KvDeleteRequest) -> Result<KvWritten, AdminError> {
        not_yet()
    }
    pub async fn list(&self, _request: KvListRequest) -> Result<KvPage, AdminError> {
        not_yet()
    }
    pub async fn watch(
        &self,
        _request: KvWatchRequest,
    ) -> Result<BoxStream<'static, Result<KvEvent, AdminError>>, AdminError> {
        not_yet()
    }
    pub async fn acquire(&self, _request: LockRequest) -> Result<LockAnswer, AdminError> {
        not_yet()
    }
    pub async fn keep(&self, _request: LeaseRequest) -> Result<LockAnswer, AdminError> {
        not_yet()
    }
    pub async fn release(&self, _request: LeaseRequest) -> Result<(), AdminError> {
        not_yet()
    }
}
