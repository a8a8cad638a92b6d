//! Heads as browsers, libraries of model providers and their servers send them.

use dataplane::http::{Parsed, RequestHead, parse_request};

/// A page's request for data, as a browser of 2025 sends it.
pub const BROWSER: &[u8] = b"GET /repos/octo/hello-world/pulls?state=open&per_page=50&page=2 HTTP/1.1\r\n\
Host: api.github.com\r\n\
Connection: keep-alive\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36\r\n\
sec-ch-ua: \"Google Chrome\";v=\"141\", \"Not?A_Brand\";v=\"8\", \"Chromium\";v=\"141\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
Accept: application/json, text/plain, */*\r\n\
Origin: https://app.example\r\n\
Sec-Fetch-Site: cross-site\r\n\
Sec-Fetch-Mode: cors\r\n\
Sec-Fetch-Dest: empty\r\n\
Referer: https://app.example/projects/42/pulls?filter=mine\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: _octo=GH1.1.1722334455.1712345678; logged_in=yes; tz=Europe%2FBerlin; color_mode=%7B%22mode%22%3A%22auto%22%7D; \
session=q3Xk0m2T9bVfLw7yZr1cN8dPaE5uHsJgKxQoBiMtRvYzWlC4\r\n\
If-None-Match: W/\"6f1d2c3b4a59687766554433221100ff\"\r\n\
\r\n";

/// A call of a model, as a provider's library for Python sends it.
pub const LIBRARY: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\n\
Host: api.openai.com\r\n\
Accept-Encoding: gzip, deflate\r\n\
Connection: keep-alive\r\n\
Accept: application/json\r\n\
Content-Type: application/json\r\n\
User-Agent: OpenAI/Python 1.109.1\r\n\
X-Stainless-Lang: python\r\n\
X-Stainless-Package-Version: 1.109.1\r\n\
X-Stainless-OS: Linux\r\n\
X-Stainless-Arch: x64\r\n\
X-Stainless-Runtime: CPython\r\n\
X-Stainless-Runtime-Version: 3.12.3\r\n\
Authorization: Bearer placeholder-that-the-gateway-replaces\r\n\
X-Stainless-Async: false\r\n\
x-stainless-retry-count: 0\r\n\
x-stainless-read-timeout: 600\r\n\
Content-Length: 1834\r\n\
\r\n";

/// An answer of such a provider.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
Date: Fri, 21 Nov 2025 16:20:00 GMT\r\n\
Content-Type: application/json\r\n\
Transfer-Encoding: chunked\r\n\
Connection: keep-alive\r\n\
access-control-expose-headers: X-Request-ID\r\n\
openai-processing-ms: 412\r\n\
openai-version: 2020-10-01\r\n\
x-ratelimit-limit-requests: 10000\r\n\
x-ratelimit-limit-tokens: 30000000\r\n\
x-ratelimit-remaining-requests: 9999\r\n\
x-ratelimit-remaining-tokens: 29999544\r\n\
x-ratelimit-reset-requests: 6ms\r\n\
x-request-id: req_5f1c0a9b8d7e6f5a4b3c2d1e0f9a8b7c\r\n\
strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n\
X-Content-Type-Options: nosniff\r\n\
Server: cloudflare\r\n\
alt-svc: h3=\":443\"; ma=86400\r\n\
\r\n";

/// Reads one of the requests above.
///
/// # Panics
/// When it is no whole request, which would make every figure meaningless.
pub fn request(bytes: &[u8]) -> RequestHead<&[u8]> {
    match parse_request(bytes) {
        Ok(Parsed::Complete { head, consumed }) if consumed == bytes.len() => head,
        other => panic!("no request: {other:?}"),
    }
}
