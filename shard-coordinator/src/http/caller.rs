//! Who asks: a token in `Authorization`, or in the cookie that `POST login` sets. Never decides
//! what the request does.

use std::time::SystemTime;

use guildhall_shared::operator::{COOKIE, Claims, HEADER, Me, PREFIX, ProblemCode, Scope};
use hyper::header::{AUTHORIZATION, COOKIE as COOKIE_HEADER, HeaderMap};

use crate::access::{AdminKey, unix_seconds};
use crate::refusal::Refusal;

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) claims: Claims,
    way: Way,
}

/// How the token came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Authorization,
    /// Browsers send it with every request, whichever page makes it.
    Cookie {
        /// True with [`HEADER`], which no page of another site can set.
        has_header: bool,
    },
}

impl Caller {
    /// Errors: [`ProblemCode::AdminDisabled`] without a key, [`ProblemCode::Unauthorized`].
    pub(super) fn of(
        key: Option<&AdminKey>,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let key = need(key)?;
        let text = |value: &hyper::header::HeaderValue| value.to_str().ok().map(str::to_owned);
        let (token, way) = match headers.get(AUTHORIZATION) {
            Some(value) => {
                let token = text(value);
                let token = token.and_then(|value| {
                    let (scheme, token) = value.split_once(' ')?;
                    let bearer = scheme.eq_ignore_ascii_case("bearer");
                    bearer.then(|| token.trim().to_owned())
                });
                (token, Way::Authorization)
            }
            None => {
                let has_header = has_header(headers);
                (cookie(headers), Way::Cookie { has_header })
            }
        };
        let claims = token.and_then(|token| key.check(&token, now));
        let claims = claims.ok_or_else(unauthorized)?;
        Ok(Self { claims, way })
    }

    /// Errors: [`ProblemCode::ScopeTooSmall`], [`ProblemCode::HeaderMissing`].
    pub(super) fn may(&self, scope: Scope) -> Result<(), Refusal> {
        if self.claims.scope < scope {
            let message = "the token only allows to read";
            return Err(Refusal::new(ProblemCode::ScopeTooSmall, message));
        }
        if scope > Scope::Read && self.way == (Way::Cookie { has_header: false }) {
            return Err(header_missing());
        }
        Ok(())
    }

    pub(super) fn me(&self) -> Me {
        me(&self.claims)
    }
}

pub(super) fn me(claims: &Claims) -> Me {
    Me {
        name: claims.sub.clone(),
        scope: claims.scope,
        expires_at_ms: claims.exp * 1_000,
    }
}

/// What sets the cookie or takes it away is a browser's, so it must not be another site's.
///
/// Errors: [`ProblemCode::HeaderMissing`].
pub(super) fn need_header(headers: &HeaderMap) -> Result<(), Refusal> {
    match has_header(headers) {
        true => Ok(()),
        false => Err(header_missing()),
    }
}

/// Checks a token that is to become a cookie; what it says, and the `Set-Cookie`.
pub(super) fn log_in(
    key: Option<&AdminKey>,
    token: &str,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<(Claims, String), Refusal> {
    let claims = need(key)?.check(token, now).ok_or_else(unauthorized)?;
    let age_s = claims.exp.saturating_sub(unix_seconds(now));
    let cookie = set_cookie(token, age_s, headers);
    Ok((claims, cookie))
}

/// The `Set-Cookie` that takes the cookie away.
pub(super) fn log_out(headers: &HeaderMap) -> String {
    set_cookie("", 0, headers)
}

fn set_cookie(token: &str, age_s: u64, headers: &HeaderMap) -> String {
    // This listener speaks plain HTTP; a proxy before it may not.
    let proto = headers.get("x-forwarded-proto");
    let secure = if proto.is_some_and(|proto| proto == "https") {
        "; Secure"
    } else {
        ""
    };
    format!("{COOKIE}={token}; Path={PREFIX}; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}")
}

fn has_header(headers: &HeaderMap) -> bool {
    headers.get(HEADER).is_some_and(|value| value == "1")
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE_HEADER).iter();
    cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, token)| token.to_owned())
}

fn need(key: Option<&AdminKey>) -> Result<&AdminKey, Refusal> {
    let message = "this coordinator was started without CLUSTER_KEY";
    key.ok_or_else(|| Refusal::new(ProblemCode::AdminDisabled, message))
}

fn header_missing() -> Refusal {
    let message = format!("a change by cookie needs the header {HEADER}: 1");
    Refusal::new(ProblemCode::HeaderMissing, message)
}

fn unauthorized() -> Refusal {
    let message = "a valid operator's token is needed";
    Refusal::new(ProblemCode::Unauthorized, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::header::HeaderValue;

    use super::*;

    fn key() -> AdminKey {
        AdminKey::of_cluster("a cluster key for tests, long enough").unwrap()
    }

    fn token(scope: Scope) -> String {
        let hour = Duration::from_secs(3_600);
        key().sign("ann", scope, hour, SystemTime::now()).unwrap()
    }

    fn caller(headers: &[(&'static str, String)]) -> Result<Caller, Refusal> {
        let headers = headers.iter().map(|(name, value)| {
            let name = hyper::header::HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        });
        Caller::of(Some(&key()), &headers.collect(), SystemTime::now())
    }

    fn code<T>(result: Result<T, Refusal>) -> Option<ProblemCode> {
        result.err().map(|refusal| refusal.0.code)
    }

    #[test]
    fn a_token_comes_by_header_or_cookie() {
        let bearer = caller(&[("authorization", format!("Bearer {}", token(Scope::Operate)))]);
        assert_eq!(code(bearer.unwrap().may(Scope::Operate)), None);
        let cookies = format!("a=b; {COOKIE}={}; c=d", token(Scope::Operate));
        let by_cookie = caller(&[("cookie", cookies.clone())]).unwrap();
        assert_eq!(code(by_cookie.may(Scope::Read)), None);
        assert_eq!(
            code(by_cookie.may(Scope::Operate)),
            Some(ProblemCode::HeaderMissing)
        );
        let ours = caller(&[("cookie", cookies), (HEADER, "1".to_owned())]).unwrap();
        assert_eq!(code(ours.may(Scope::Operate)), None);
    }

    #[test]
    fn without_a_valid_token_nobody_gets_in() {
        assert_eq!(code(caller(&[])), Some(ProblemCode::Unauthorized));
        for bad in ["Bearer junk", "Basic YTpi", "junk", ""] {
            let refused = caller(&[("authorization", bad.to_owned())]);
            assert_eq!(code(refused), Some(ProblemCode::Unauthorized), "{bad}");
        }
        let reader = caller(&[("authorization", format!("Bearer {}", token(Scope::Read)))]);
        assert_eq!(
            code(reader.unwrap().may(Scope::Operate)),
            Some(ProblemCode::ScopeTooSmall)
        );
        let disabled = Caller::of(None, &HeaderMap::new(), SystemTime::now());
        assert_eq!(code(disabled), Some(ProblemCode::AdminDisabled));
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let token = token(Scope::Read);
        let mut headers = HeaderMap::new();
        let now = SystemTime::now();
        let (_, cookie) = log_in(Some(&key()), &token, &headers, now).unwrap();
        assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains("Secure"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        let (_, cookie) = log_in(Some(&key()), &token, &headers, now).unwrap();
        assert!(cookie.ends_with("; Secure"), "{cookie}");
        assert!(log_out(&headers).contains("Max-Age=0"));
        let refused = log_in(Some(&key()), "junk", &headers, now);
        assert_eq!(code(refused), Some(ProblemCode::Unauthorized));
    }
}
