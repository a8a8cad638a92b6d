//! apt-get against a flat repository, with folders of an ordinary user's own.

use tests::yard::{SECRET, Yard};

use super::{allowed, basic, needs, refused, shelf, with_a_secret_never_held};

/// A repository of twenty packages that differ by their names alone: apt-get asks for ten at once (pipelining, RFC 9112
/// §9.3.2).
const REPOSITORY: &str = r#"
mkdir -p seedling/DEBIAN seedling/usr/share/seedling shelf/debian
echo 'it grew' >seedling/usr/share/seedling/said
cat >seedling/DEBIAN/control <<END
Package: seedling
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@origin.test>
Description: grows
END
dpkg-deb --root-owner-group --build seedling seedling.deb >/dev/null
sum() { set -- $(sha256sum "$1") $(stat -c %s "$1"); echo "$1 $3"; }
set -- $(sum seedling.deb)
cd shelf/debian
for n in $(seq 20); do
  cp ../../seedling.deb seedling$n.deb
  sed "s/^Package: seedling/&$n/" ../../seedling/DEBIAN/control
  printf 'Filename: ./seedling%s.deb\nSHA256: %s\nSize: %s\n\n' $n $1 $2
done >Packages
printf 'Date: %s\nSHA256:\n %s Packages\n' "$(date -Ru)" "$(sum Packages)" >Release
"#;

fn yard(demanded: Option<String>) -> Yard {
    needs(&["apt-get", "--version"], "apt");
    shelf::yard(REPOSITORY, demanded)
}

/// Everything that apt-get writes, and everything that it is told, lies in the user's folder.
fn download(yard: &Yard, from: &str) -> String {
    let port = yard.origin.address.port();
    format!(
        "mkdir -p apt/etc/apt/apt.conf.d apt/etc/apt/preferences.d apt/var/lib/apt/lists apt/var/lib/dpkg\n\
         mkdir -p apt/var/cache/apt/archives apt/var/log/apt; : >apt/var/lib/dpkg/status\n\
         echo 'deb [trusted=yes] {from}:{port}/debian ./' >apt/etc/apt/sources.list\n\
         echo \"Dir \\\"$PWD/apt\\\"; Dir::State::status \\\"$PWD/apt/var/lib/dpkg/status\\\";\" >apt.conf\n\
         export APT_CONFIG=$PWD/apt.conf\n\
         apt-get update --error-on=any\n\
         apt-get download $(seq -f seedling%g 20)\n\
         for deb in *.deb; do dpkg-deb --fsys-tarfile $deb | tar -xO ./usr/share/seedling/said; done"
    )
}

#[test]
fn list_and_packages_are_downloaded_with_and_without_tls() {
    for (yard, from) in
        [(yard(None), "https://origin.test"), (shelf::plain(REPOSITORY), "http://origin.test")]
    {
        let out = allowed(&yard, &download(&yard, from));
        assert_eq!(out.matches("it grew\n").count(), 20, "{out}");
    }
}

#[test]
fn refused_repository_is_explained_and_sees_nothing() {
    let yard = yard(None);
    assert!(
        refused(&yard, &download(&yard, "https://denied.test"))
            .contains("403  Forbidden (outgate: host_not_allowed)")
    );
}

#[test]
fn private_repository_is_used_with_a_secret_that_apt_never_holds() {
    let credential = format!("apt:{SECRET}");
    let yard = yard(Some(basic(&credential)));
    let out = with_a_secret_never_held(&yard, ":basic", &credential, &download(&yard, "https://origin.test"));
    assert!(out.contains("it grew\n"), "{out}");
}
