//! Commands that people type: curl, wget, openssl.

use crate::trial::{URL, Way, assert_installed, passes};

#[test]
fn curl() {
    passes(Way::Bearer, &["curl", "--silent", "--show-error", URL], |_| {});
}

#[test]
fn wget() {
    // GnuTLS, which heeds no variable. Without the option wget hides the body of whatever is not a success.
    passes(Way::Basic, &["wget", "--quiet", "--content-on-error", "--output-document=-", URL], |_| {});
}

#[test]
fn openssl_s_client() {
    assert_installed("openssl");
    let script = "printf 'GET %s HTTP/1.1\\r\\nHost: %s:%s\\r\\nConnection: close\\r\\n\\r\\n' \"$3\" \"$1\" \"$2\" | \
                  openssl s_client -quiet -verify_return_error -verify_hostname \"$1\" -servername \"$1\" \
                  -connect \"$1:$2\"";
    passes(Way::Header, &["sh", "-c", script, "sh", "{host}", "{port}", "{path}"], |_| {});
}
