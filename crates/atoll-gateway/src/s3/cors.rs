//! CORS: a bucket's rules, the preflight that a browser asks without a signature, and what
//! its requests are answered with besides.
//!
//! The rules say what a browser may show to a page, nothing of who may do what: a request
//! that no rule allows is answered all the same, without the headers.

use atoll_objects::{BucketSetting, CorsRule, Objects, SettingKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        CORSRule, DeleteBucketCorsInput, DeleteBucketCorsOutput, GetBucketCorsInput, GetBucketCorsOutput,
        PutBucketCorsInput, PutBucketCorsOutput,
    },
    s3_error,
};

use super::{
    S3Operations,
    error::{IntoS3, bad_request},
    headers,
};

/// S3's limits.
const RULES_MAX: usize = 100;
const ID_CHARS_MAX: usize = 255;
const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

impl S3Operations {
    pub(crate) async fn cors(
        &self,
        req: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        match self.setting(&req.input.bucket, SettingKind::Cors).await? {
            Some(BucketSetting::Cors(rules)) => {
                let cors_rules = Some(rules.into_iter().map(said).collect());
                Ok(S3Response::new(GetBucketCorsOutput { cors_rules }))
            }
            _ => Err(s3_error!(NoSuchCORSConfiguration, "The CORS configuration does not exist")),
        }
    }

    pub(crate) async fn set_cors(
        &self,
        req: S3Request<PutBucketCorsInput>,
    ) -> S3Result<S3Response<PutBucketCorsOutput>> {
        let rules = req.input.cors_configuration.cors_rules;
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(s3_error!(MalformedXML, "A CORS configuration has 1 to {RULES_MAX} rules"));
        }
        let rules = rules.into_iter().map(asked).collect::<S3Result<Vec<_>>>()?;
        self.set(&req.input.bucket, SettingKind::Cors, Some(BucketSetting::Cors(rules))).await?;
        Ok(S3Response::new(PutBucketCorsOutput::default()))
    }

    pub(crate) async fn delete_cors(
        &self,
        req: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
        self.set(&req.input.bucket, SettingKind::Cors, None).await?;
        Ok(S3Response::with_status(DeleteBucketCorsOutput::default(), http::StatusCode::NO_CONTENT))
    }
}

fn asked(rule: CORSRule) -> S3Result<CorsRule> {
    let CORSRule { allowed_headers, allowed_methods, allowed_origins, expose_headers, id, max_age_seconds } =
        rule;
    let invalid = |message: String| Err(s3_error!(InvalidRequest, "{message}"));
    if allowed_methods.is_empty() || allowed_origins.is_empty() {
        return Err(s3_error!(MalformedXML, "A CORS rule needs an AllowedOrigin and an AllowedMethod"));
    }
    if let Some(method) = allowed_methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        return invalid(format!(
            "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
        ));
    }
    if let Some(origin) = allowed_origins.iter().find(|origin| origin.matches('*').count() > 1) {
        return invalid(format!("AllowedOrigin \"{origin}\" can not have more than one wildcard."));
    }
    let allowed_headers = allowed_headers.unwrap_or_default();
    if let Some(header) = allowed_headers.iter().find(|header| header.matches('*').count() > 1) {
        return invalid(format!("AllowedHeader \"{header}\" can not have more than one wildcard."));
    }
    let expose_headers = expose_headers.unwrap_or_default();
    if let Some(header) = expose_headers.iter().find(|header| header.contains('*')) {
        return invalid(format!(
            "ExposeHeader \"{header}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
        ));
    }
    if id.as_ref().is_some_and(|id| id.chars().count() > ID_CHARS_MAX) {
        return invalid(format!("The ID of a CORS rule has at most {ID_CHARS_MAX} characters"));
    }
    Ok(CorsRule {
        id,
        origins: allowed_origins,
        methods: allowed_methods,
        headers: allowed_headers,
        expose_headers,
        max_age_seconds,
    })
}

fn said(rule: CorsRule) -> CORSRule {
    let CorsRule { id, origins, methods, headers, expose_headers, max_age_seconds } = rule;
    CORSRule {
        allowed_headers: Some(headers).filter(|headers| !headers.is_empty()),
        allowed_methods: methods,
        allowed_origins: origins,
        expose_headers: Some(expose_headers).filter(|headers| !headers.is_empty()),
        id,
        max_age_seconds,
    }
}

/// What a browser says of a request, or of one that it is about to make.
pub(crate) struct CrossOrigin {
    origin: String,
    method: String,
    /// Of a preflight: the headers that the request will have.
    headers: Vec<String>,
}

impl CrossOrigin {
    /// Of an ordinary request with an `Origin`.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?.to_owned();
        Some(Self { origin, method: method.as_str().to_owned(), headers: Vec::new() })
    }

    /// Of a preflight (Fetch standard, "CORS-preflight request").
    fn of_preflight(headers: &HeaderMap) -> S3Result<Self> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let origin = text(header::ORIGIN).filter(|origin| !origin.is_empty());
        let origin = origin
            .ok_or_else(|| bad_request("Insufficient information. Origin request header needed.".into()))?;
        let method = text(header::ACCESS_CONTROL_REQUEST_METHOD).unwrap_or_default();
        if !METHODS.contains(&method) {
            let said = if method.is_empty() { "null" } else { method };
            return Err(bad_request(format!("Invalid Access-Control-Request-Method: {said}")));
        }
        let asked = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let headers = asked
            .flat_map(|value| value.to_str().unwrap_or_default().split(','))
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        Ok(Self { origin: origin.to_owned(), method: method.to_owned(), headers })
    }

    /// The first rule that allows it.
    fn find<'r>(&self, rules: &'r [CorsRule]) -> Option<&'r CorsRule> {
        rules.iter().find(|rule| {
            rule.origins.iter().any(|pattern| matches(pattern, &self.origin))
                && rule.methods.contains(&self.method)
                && self.headers.iter().all(|name| {
                    rule.headers.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), name))
                })
        })
    }

    /// The headers that the rule has an answer carry.
    fn answer(&self, rule: &CorsRule, out: &mut HeaderMap) {
        let any = rule.origins.iter().any(|origin| origin == "*");
        let mut set = |name: HeaderName, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                out.insert(name, value);
            }
        };
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, if any { "*" } else { &self.origin });
        if !any {
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        set(header::ACCESS_CONTROL_ALLOW_METHODS, &rule.methods.join(", "));
        if !self.headers.is_empty() {
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers.join(", "));
        }
        if !rule.expose_headers.is_empty() {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, &rule.expose_headers.join(", "));
        }
        if let Some(seconds) = rule.max_age_seconds {
            set(header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        set(header::VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
    }
}

/// With at most one `*`, which stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

async fn rules_of(objects: &Objects, bucket: &str) -> S3Result<Vec<CorsRule>> {
    let name = headers::bucket(bucket)?;
    match objects.bucket_setting(&name, SettingKind::Cors).await.map_err(IntoS3::into_s3)? {
        Some(BucketSetting::Cors(rules)) => Ok(rules),
        _ => Ok(Vec::new()),
    }
}

fn forbidden(message: &str) -> S3Error {
    let code = s3s::S3ErrorCode::Custom("AccessForbidden".into());
    let mut error = S3Error::with_message(code, message.to_owned());
    error.set_status_code(http::StatusCode::FORBIDDEN);
    error
}

/// Answers a preflight: nobody signs one, and it does nothing.
pub(crate) async fn preflight(
    objects: &Objects,
    bucket: Option<&str>,
    request: &HeaderMap,
) -> S3Result<http::Response<s3s::Body>> {
    let asked = CrossOrigin::of_preflight(request)?;
    let rules = match bucket {
        Some(bucket) => rules_of(objects, bucket).await?,
        None => Vec::new(),
    };
    if rules.is_empty() {
        return Err(forbidden("CORSResponse: CORS is not enabled for this bucket."));
    }
    let rule = asked.find(&rules).ok_or_else(|| {
        forbidden(
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
        )
    })?;
    let mut response = http::Response::new(s3s::Body::empty());
    asked.answer(rule, response.headers_mut());
    Ok(response)
}

/// Adds what the bucket's rules have a browser know of an answer. Without an answer to that
/// in time nothing is added, and the browser keeps the answer from the page.
pub(crate) async fn decorate(objects: &Objects, bucket: &str, request: &CrossOrigin, out: &mut HeaderMap) {
    if let Ok(rules) = rules_of(objects, bucket).await
        && let Some(rule) = request.find(&rules)
    {
        request.answer(rule, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> CorsRule {
        let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        CorsRule {
            origins: owned(origins),
            methods: owned(methods),
            headers: owned(headers),
            expose_headers: owned(&["ETag"]),
            max_age_seconds: Some(60),
            ..Default::default()
        }
    }

    fn preflight_of(origin: &str, method: &str, headers: &str) -> CrossOrigin {
        let mut map = HeaderMap::new();
        map.insert(header::ORIGIN, origin.parse().unwrap());
        map.insert(header::ACCESS_CONTROL_REQUEST_METHOD, method.parse().unwrap());
        if !headers.is_empty() {
            map.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, headers.parse().unwrap());
        }
        CrossOrigin::of_preflight(&map).unwrap()
    }

    #[test]
    fn the_first_rule_that_allows_origin_method_and_headers_answers() {
        let rules = [
            rule(&["https://a.example"], &["PUT"], &["Content-*", "x-amz-meta-a"]),
            rule(&["https://*.example"], &["GET"], &[]),
        ];
        let found = |origin, method, headers| {
            let asked = preflight_of(origin, method, headers);
            asked.find(&rules).map(|rule| rule.methods[0].clone())
        };
        assert_eq!(found("https://a.example", "PUT", "Content-Type, X-Amz-Meta-A").as_deref(), Some("PUT"));
        assert_eq!(found("https://a.example", "PUT", "x-amz-meta-b"), None);
        assert_eq!(found("https://a.example", "GET", "").as_deref(), Some("GET"));
        assert_eq!(found("https://b.example", "GET", "range"), None);
        assert_eq!(found("https://.exampl", "GET", ""), None);
        assert_eq!(found("https://b.example", "PUT", ""), None);
    }

    #[test]
    fn only_a_rule_for_all_origins_answers_with_a_star_and_then_without_credentials() {
        let asked = preflight_of("https://a.example", "GET", "");
        let mut out = HeaderMap::new();
        asked.answer(&rule(&["*"], &["GET"], &["*"]), &mut out);
        assert_eq!(out[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!out.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        let mut out = HeaderMap::new();
        asked.answer(&rule(&["https://a*"], &["GET"], &["*"]), &mut out);
        assert_eq!(out[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(out[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(out[header::ACCESS_CONTROL_EXPOSE_HEADERS], "ETag");
        assert_eq!(out[header::ACCESS_CONTROL_MAX_AGE], "60");
    }

    #[test]
    fn rules_that_s3_refuses_are_refused() {
        let asked_for = |origins: &[&str], methods: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
            asked(CORSRule {
                allowed_headers: None,
                allowed_methods: owned(methods),
                allowed_origins: owned(origins),
                expose_headers: None,
                id: None,
                max_age_seconds: None,
            })
        };
        assert!(asked_for(&["*"], &["GET"]).is_ok());
        assert!(asked_for(&["*"], &["PATCH"]).is_err());
        assert!(asked_for(&["*.a.*"], &["GET"]).is_err());
        assert!(asked_for(&[], &["GET"]).is_err());
    }
}
