//! Java, which heeds neither the system's authorities nor the variables of others.

use crate::trial::{URL, Way, passes};

#[test]
fn java_http_client() {
    passes(Way::Header, &["java", "Fetch.java", URL], |yard| {
        yard.ground.write("Fetch.java", include_str!("Fetch.java"));
    });
}
