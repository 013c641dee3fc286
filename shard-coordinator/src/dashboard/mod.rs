//! The operators' page at `/`: files that are part of the program, which ask `/admin/v1`.
//!
//! The files hold no data and need no token. Nothing is loaded from elsewhere.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY};
use hyper::{Response, header};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Own files only, in no frame, and no text that becomes script by accident.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Sent with every file.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    // Asked for anew each time, so that page and coordinator are of one version.
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The file at this path; `None`: there is none.
pub(crate) fn file(path: &str) -> Option<Response<Full<Bytes>>> {
    let (content_type, text) = match path {
        "/" => (HTML, include_str!("index.html")),
        "/dashboard/dashboard.css" => (CSS, include_str!("dashboard.css")),
        "/dashboard/dashboard.js" => (SCRIPT, include_str!("dashboard.js")),
        "/dashboard/api.js" => (SCRIPT, include_str!("api.js")),
        "/dashboard/dom.js" => (SCRIPT, include_str!("dom.js")),
        "/dashboard/map.js" => (SCRIPT, include_str!("map.js")),
        "/dashboard/panels.js" => (SCRIPT, include_str!("panels.js")),
        "/dashboard/plan.js" => (SCRIPT, include_str!("plan.js")),
        _ => return None,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let mut texts = vec![include_str!("index.html")];
        texts.extend([include_str!("dashboard.js"), include_str!("plan.js")]);
        texts.extend([include_str!("panels.js"), include_str!("map.js")]);
        let mut named = 0;
        for text in texts {
            for part in text
                .split('"')
                .filter(|part| !part.contains(char::is_whitespace))
            {
                let path = match part.strip_prefix("./") {
                    Some(file) => format!("/dashboard/{file}"),
                    None if part.starts_with("dashboard/") => format!("/{part}"),
                    None => continue,
                };
                assert!(file(&path).is_some(), "{path}");
                named += 1;
            }
        }
        assert!(named >= 5, "{named}");
        assert!(file("/dashboard/none.js").is_none());
    }

    #[test]
    fn the_page_runs_nothing_but_its_own_files() {
        let page = file("/").unwrap();
        let policy = page.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(!policy.contains("unsafe"), "{policy}");
        let html = include_str!("index.html");
        for inline in [
            "<style",
            " style=",
            " onclick=",
            "javascript:",
            "http://",
            "https://",
        ] {
            assert!(!html.contains(inline), "{inline}");
        }
    }
}
