//! How the C library copies memory on AMD's processors.
//!
//! There `rep movsb` takes some twenty times as long where the destination lies a few bytes behind the source, both seen
//! within their page, as a record's payload does that is copied behind its head. The C library uses it all the same, from
//! 2 KiB on (glibc bug 30994, here seen in 2.36), and is told otherwise only by the environment of a program that starts.
//! So the plane starts anew, once, as the same process.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::Command,
};

/// Where the C library is told.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// What is said: from how many bytes on it may use `rep movsb`.
const THRESHOLD: &str = "glibc.cpu.x86_rep_movsb_threshold";
/// Set in the environment of a plane that was started anew, also where the system has taken the other one out: a program
/// with capabilities of its own does not get it.
const DONE: &str = "OUTGATE_COPIES_SET";
/// Bytes of `/proc/cpuinfo` that tell of the first processor.
const FIRST_PROCESSOR_BYTES: u64 = 8 << 10;

/// Starts this program anew where the C library should copy otherwise than it does. Where that is not possible, it goes on
/// and copies slowly.
pub fn settle() {
    if env::var_os(DONE).is_some() || !is_slow_here() {
        return;
    }
    let Some(tunables) = with_threshold(env::var_os(TUNABLES)) else { return };
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    let mut again = Command::new(program);
    again.arg0(name).args(arguments).env(TUNABLES, tunables).env(DONE, "1");
    // Comes back only where it could not.
    let _went_on = again.exec();
}

/// Whether this machine's processors are such.
fn is_slow_here() -> bool {
    let mut text = String::new();
    let read = File::open("/proc/cpuinfo")
        .and_then(|file| file.take(FIRST_PROCESSOR_BYTES).read_to_string(&mut text));
    read.is_ok() && is_slow_on(&text)
}

fn is_slow_on(processors: &str) -> bool {
    let field = |wanted: &str| {
        let mut lines = processors.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| name.trim() == wanted).map(|(_, value)| value)
    };
    let is_amd = field("vendor_id").is_some_and(|vendor| vendor.trim() == "AuthenticAMD");
    is_amd && field("flags").is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "erms"))
}

/// What is to be said beside what was said already; nothing where somebody has chosen.
fn with_threshold(before: Option<OsString>) -> Option<OsString> {
    let ours = format!("{THRESHOLD}={}", i64::MAX);
    match before.as_deref().map(OsStr::to_string_lossy) {
        Some(text) if text.contains(THRESHOLD) => None,
        Some(text) if !text.is_empty() => Some(format!("{text}:{ours}").into()),
        _ => Some(ours.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amds_processors_with_enhanced_rep_movsb_are_told_from_others() {
        let of = |vendor: &str, flags: &str| {
            format!("processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: X\nflags\t\t: fpu {flags} fsrm\n\n")
        };
        assert!(is_slow_on(&of("AuthenticAMD", "erms")));
        assert!(!is_slow_on(&of("AuthenticAMD", "sse2")));
        assert!(!is_slow_on(&of("GenuineIntel", "erms")));
        assert!(!is_slow_on("processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd\n"));
    }

    #[test]
    fn what_the_operator_has_said_stays() {
        let own = |text: &str| with_threshold(Some(text.into())).map(|text| text.into_string().unwrap());
        let ours = with_threshold(None).unwrap().into_string().unwrap();
        assert!(ours.starts_with(THRESHOLD));
        assert_eq!(own("").unwrap(), ours);
        assert_eq!(own("glibc.malloc.check=1").unwrap(), format!("glibc.malloc.check=1:{ours}"));
        assert_eq!(own("glibc.cpu.x86_rep_movsb_threshold=4096"), None);
    }
    #[test]
    fn a_program_is_started_anew_once_with_its_arguments_where_its_processors_are_such() {
        let program = env::current_exe().unwrap();
        let mut settles = Command::new(program);
        settles.args(["--ignored", "--exact", "--nocapture", "boot::copies::tests::settles"]);
        let said = settles.env_remove(DONE).env_remove(TUNABLES).output().unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        let told: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("settled: ")).collect();
        let ours = with_threshold(None).unwrap().into_string().unwrap();
        assert_eq!(told, [if is_slow_here() { ours.as_str() } else { "" }], "{text}");
    }

    #[test]
    #[ignore = "the program of the test above"]
    fn settles() {
        settle();
        println!("\nsettled: {}", env::var(TUNABLES).unwrap_or_default());
    }
}
