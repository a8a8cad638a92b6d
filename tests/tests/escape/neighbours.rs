//! What else of the same user lies on the machine: this gateway, a later one, one that `outgate serve` keeps, and
//! servers of whatever kind that can be called by a path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::process::Process;
use tests::yard::{SECRET, Yard, said};

use super::{Cell, NESTED, python, said as told};

/// Waits for paths that it is told, then tries each and everything in it.
const PRY: &str = "
print('ready', flush=True)
for path in open('paths').read().split():
    def look(path=path):
        return len(os.listdir(path))
    def connect(path=path):
        with socket.socket(socket.AF_UNIX) as taken:
            taken.connect(path)
        return 'connected'
    tried('look', look) if path.endswith('/') else tried('connect', connect)
print('done', flush=True)
";

/// Folders of gateways that run from a yard.
fn gateways(yard: &Yard) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect()
    };
    let shared = entries(&yard.ground.path("tmp"));
    let mut folders: Vec<_> = shared.iter().flat_map(|folder| entries(folder)).collect();
    folders.sort();
    folders
}

fn pry(yard: &Yard, nested: bool) -> Process {
    let words = python(PRY);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let program = if nested { [&NESTED[..], &words].concat() } else { words };
    let process = Process::start(&mut yard.run(&["--no-tty-summary"], &program));
    process.told("ready");
    process
}

/// The folder of a gateway that started later was not covered in the sandboxes that were there: from one of them its
/// API was told to let everything through, and its plane took listeners.
#[test]
fn gateways_of_the_same_user_are_out_of_reach_also_those_that_come_later() {
    for nested in [false, true] {
        let yard = Yard::new();
        // A pipe by its name, for the script waits until somebody writes to it.
        assert!(yard.ground.command("mkfifo", &["paths"]).status().unwrap().success());
        let inside = pry(&yard, nested);
        let later = Process::start(&mut yard.run(&[], &["sh", "-c", "echo inside; exec sleep 100000"]));
        later.told("inside");
        let mut paths = Vec::new();
        for folder in gateways(&yard) {
            let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
            paths.extend([at(""), at("state/"), at("state/api.sock"), at("state/plane/attach.sock")]);
        }
        assert_eq!(paths.len(), 8, "{paths:?}");
        let script = PRY.replace("open('paths').read()", "sys.argv[1]");
        let words = python(&script);
        let words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let paths = paths.join(" ");
        let outside = told(&mut yard.ground.command("python3", &[&words[..], &[&*paths]].concat()));
        assert_eq!(outside.matches("connected").count(), 4, "{outside}");
        fs::write(yard.ground.path("paths"), paths).unwrap();
        inside.told("done");
        let tried = inside.said();
        assert!(!tried.contains("connected"), "{tried}");
        let refused = ["ENOENT", "EACCES"].map(|error| tried.matches(error).count());
        assert_eq!(refused.iter().sum::<usize>(), 8, "{tried}");
    }
}

/// Memory and environment of `run`, of control, of the plane and of the sandbox's own processes, by their numbers.
#[test]
fn processes_of_the_gateway_are_out_of_reach_and_closed_to_their_own_user() {
    let script = "
print('ready', flush=True)
numbers = [int(word) for word in (sys.argv[2] if sys.argv[2:] else open('numbers').read()).split()]
read_memory, open_process, ptrace = map(int, sys.argv[1].split())
room = ctypes.create_string_buffer(8)
vector = struct.pack('PN', ctypes.addressof(room), 8)
for number in numbers:
    for name in ('environ', 'mem', 'maps', 'auxv'):
        tried(name, lambda: len(open(f'/proc/{number}/{name}', 'rb').read(1)))
    for name in ('fd', 'root', 'cwd', 'map_files'):
        tried(name, lambda: len(os.listdir(f'/proc/{number}/{name}/')))
    tried('vm', lambda: call(read_memory, number, vector, 1, vector, 1, ctypes.c_ulong(0)))
    tried('trace', lambda: call(ptrace, 0x4206, number, 0, 0))
    tried('process', lambda: call(open_process, number, 0))
    tried('signal', lambda: os.kill(number, 0))
print('done', flush=True)
";
    let calls = if cfg!(target_arch = "x86_64") { "310 434 101" } else { "270 434 117" };
    let words = python(script);
    let words: Vec<&str> = words.iter().map(String::as_str).chain([calls]).collect();
    for program in [words.clone(), [&NESTED[..], &words].concat()] {
        let yard = Yard::new();
        assert!(yard.ground.command("mkfifo", &["numbers"]).status().unwrap().success());
        let run = Process::start(&mut yard.run(&["--secret=token=env:TOKEN@origin.test"], &program));
        run.told("ready");
        let mut numbers = vec![run.pid()];
        let below = |above: u32| {
            let entries = fs::read_dir("/proc").unwrap().flatten();
            let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            pids.filter(|pid| parent(*pid) == Some(above)).collect::<Vec<_>>()
        };
        // Control, the process that left, the first one inside, the plane; the program itself is not asked.
        let children = below(run.pid());
        let more: Vec<u32> = children.iter().flat_map(|pid| below(*pid)).collect();
        numbers.extend(children.into_iter().chain(more));
        assert_eq!(numbers.len(), 5, "{numbers:?}");
        let numbers = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let outside = told(&mut yard.ground.command(words[0], &[&words[1..], &[&*numbers]].concat()));
        let open: Vec<&str> = outside.lines().filter(|line| !line.contains(" E")).collect();
        let shown = ["ready", "process", "signal", "done"];
        assert!(open.iter().all(|line| shown.iter().any(|word| line.starts_with(word))), "{outside}");
        assert_eq!(open.len(), 2 + 2 * 5, "they are there: {outside}");
        fs::write(yard.ground.path("numbers"), numbers).unwrap();
        run.told("done");
        let tried = run.said();
        let tried = tried.lines().filter(|line| line.contains(' ') && !line.contains("outgate"));
        let open: Vec<&str> = tried.filter(|line| !line.contains(" E")).collect();
        assert!(open.is_empty(), "{open:?}");
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The caller's folder for temporary files lay in a folder of the caller's: moved away, it left the gateway's store
/// behind for the next sandbox to read, and another could be put in its place under the gateway.
#[test]
fn the_folder_of_the_gateway_is_moved_by_nobody_and_nothing_of_it_stays() {
    let yard = Yard::new();
    let script = "mv tmp moved; mv tmp/* .; rm -rf tmp; rmdir tmp; ls -d moved; ls -A tmp/*";
    assert_eq!(
        told(&mut yard.ground.command("sh", &["-c", "mkdir t && mv t moved && ls -d moved"])),
        "moved"
    );
    fs::remove_dir(yard.ground.path("moved")).unwrap();
    let nested = [&NESTED[..], &["sh", "-c", script]].concat();
    for program in [&["sh", "-c", script][..], &nested] {
        let secret = ["--secret=token=env:TOKEN@origin.test", "--no-tty-summary"];
        let (out, err) = said(&yard.run(&secret, program).output().unwrap());
        assert!(err.contains("busy") && !out.contains("moved"), "{out}{err}");
        assert_eq!(yard.left(), [""; 0], "{err}");
    }
}

/// A pipe in the place of the file for `outgate why` held up the end of `run` for ever.
#[test]
fn a_pipe_in_the_place_of_the_refusals_holds_up_neither_this_run_nor_the_next() {
    let yard = Yard::new();
    let place = ".local/state/outgate";
    let script = format!("mv {place} moved && mkdir {place} && mkfifo {place}/last-run.jsonl && exit 5");
    for (program, status) in [(&["sh", "-c", &*script][..], 5), (&["true"], 0)] {
        let mut run = Process::start(&mut yard.run(&["--no-tty-summary"], program));
        assert_eq!(run.ended(), status == 0, "{}", run.said());
    }
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
}

/// `outgate serve` keeps everything below the folder where it was started unless told otherwise, and a program is
/// started there too.
#[test]
fn state_of_a_gateway_that_serves_is_covered() {
    let yard = Yard::new();
    let mut serve = yard.ground.command(&yard.outgate, &["serve", "--no-plane", "--listen", "127.0.0.1:0"]);
    let serve = Process::start(&mut serve);
    serve.told("link ");
    let look = "ls outgate-state; ./outgate template list";
    let outside = told(&mut yard.ground.command("sh", &["-c", look]));
    assert!(outside.contains("api.sock") && !outside.contains("cannot"), "{outside}");
    let nested = [&NESTED[..], &["sh", "-c", look]].concat();
    for program in [&["sh", "-c", look][..], &nested] {
        let (out, err) = said(&yard.run(&["--no-tty-summary"], program).output().unwrap());
        assert!(out.is_empty() && err.contains("outgate: "), "{out}{err}");
    }
}

/// One that keeps its state elsewhere is found by its socket: what its secrets are sealed with lies beside that.
#[test]
fn state_of_a_gateway_elsewhere_is_covered_too() {
    let yard = Yard::new();
    let options = ["--state", "else/where", "serve", "--no-plane", "--listen", "127.0.0.1:0"];
    let serve = Process::start(&mut yard.ground.command(&yard.outgate, &options));
    serve.told("link ");
    let look = "cat else/where/seal.key | wc -c; ls else/where; ./outgate --state else/where template list";
    let outside = told(&mut yard.ground.command("sh", &["-c", look]));
    assert!(outside.starts_with("32\n") && outside.contains("api.sock"), "{outside}");
    let nested = [&NESTED[..], &["sh", "-c", look]].concat();
    for program in [&["sh", "-c", look][..], &nested] {
        let (out, err) = said(&yard.run(&["--no-tty-summary"], program).output().unwrap());
        assert!(out == "0\n" && err.contains("outgate: "), "{out}{err}");
    }
}

/// The kernel lists a socket as its owner called it. One that was called from the folder in which the owner is was
/// looked for in ours, and not covered.
#[test]
fn a_socket_that_its_owner_called_from_its_own_folder_is_covered() {
    let cell = Cell::new();
    let script = "
os.makedirs('deep/er')
os.chdir('deep/er')
listening = socket.socket(socket.AF_UNIX)
listening.bind('./s')
listening.listen()
path, program = os.path.abspath('s'), sys.argv[1]
for before in ([], [program, '--'], [program, '--', 'unshare', '-Ur']):
    subprocess.run([*before, program, 'probe', 'unix', path])
";
    let (words, program) = (python(script), cell.0.program());
    let mut command: Command = cell.0.command("python3", &[&words[1], &words[2], program.to_str().unwrap()]);
    let lines = told(&mut command);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(lines[0] == "connected" && lines.len() == 3, "{lines:?}");
    assert!(lines[1..].iter().all(|line| line.starts_with("error: ")), "{lines:?}");
}

/// What a person sees of a run is written by the program too, but for our own lines: those hold nothing that moves the
/// cursor.
#[test]
fn what_was_asked_for_cannot_draw_in_the_summary() {
    let yard = Yard::new();
    let script = "
field = b'Host: denied.test\\r\\nConnection: close\\r\\n\\r\\n'
for line in (b'GET /\\x1b[2J\\x9b2J\\r HTTP/1.1\\r\\n', b'GET /%1b%9b\\xc2\\x9b2J HTTP/1.1\\r\\n', b'GET /%1b[2J%0d HTTP/1.1\\r\\n'):
    with socket.create_connection(('denied.test', 80), 10) as taken:
        taken.sendall(line + field)
        print(repr(taken.recv(4096)))
";
    let words = python(script);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (out, err) = said(&yard.run(&[], &words).output().unwrap());
    let why = told(&mut yard.ground.command(&yard.outgate, &["why"]));
    for shown in [&out, &err, &why] {
        assert!(!shown.contains(['\u{1b}', '\u{9b}', '\r']) && !shown.contains(SECRET), "{shown:?}");
    }
    assert!(err.contains("denied.test") && why.contains("denied.test"), "{err}{why}");
}
