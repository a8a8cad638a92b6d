//! Mounts: what covers a secret is taken away by nothing, and there is no second way to what it covers.

use std::process::Command;

use super::{Cell, HIDDEN, NESTED, said};

/// What root of a user namespace may try with the mounts that it was given. `sub/token` is covered.
const TRICKS: &str = "
mkdir -p aside upper work
umount sub/token; umount -l sub/token; umount -R sub
mount --make-rshared /; mount --make-rslave /; mount --make-rprivate /; umount -l sub/token
mount --bind sub aside && cat aside/token
mount --rbind sub aside && { umount -l aside/token; cat aside/token; umount -R aside; }
mount --move sub/token aside; cat sub/token
mount -o remount,bind,rw sub/token; cat sub/token
for options in lowerdir=sub:upper lowerdir=sub:upper,userxattr lowerdir=upper,upperdir=sub,workdir=work; do
  mount -t overlay overlay -o $options aside && { cat aside/token; umount aside; }
done
mv sub moved; cat moved/token; mv moved sub
rm -rf sub; unlink sub/token; ln sub/token aside/second; cat aside/second; mv sub/token aside; cat aside/token
chmod 777 sub/token; cat sub/token; cp sub/token aside/copy; cat aside/copy
mount -t tmpfs none aside && mkdir aside/old && pivot_root aside aside/old; cat old/$PWD/sub/token
unshare --mount sh -c 'umount -l sub/token; cat sub/token'
unshare --user --map-root-user --mount sh -c 'umount -l sub/token; cat sub/token'
unshare --pid --fork --mount-proc sh -c 'cat /proc/*/root/$PWD/sub/token /proc/*/cwd/sub/token'
cat /proc/*/root/$PWD/sub/token /proc/*/cwd/sub/token /proc/self/fd/*/sub/token
chroot / cat $PWD/sub/token
";

/// The same by the newer calls: a copy of a part of the tree, alone or with what is mounted in it, and attributes.
const CALLS: &str = "
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR, OPEN_BY_HANDLE = 428, 429, 442, int(sys.argv[2])
def look(number):
    return open(f'/proc/self/fd/{number}/token').read()
for flags in (1, 1 | 0x8000):
    tree = call(OPEN_TREE, -100, b'sub', flags)
    if tree >= 0:
        tried('unmount', lambda: -1 if libc.umount2(f'/proc/self/fd/{tree}/token'.encode(), 2) else 0)
        tried('attributes', lambda: call(MOUNT_SETATTR, tree, b'', 0x1000 | 0x8000, struct.pack('QQQQ', 0, 1, 0, 0), 32))
        tried('look', lambda: look(tree))
tree = call(OPEN_TREE, -100, b'sub/token', 0)
if tree >= 0:
    tried('move', lambda: call(MOVE_MOUNT, tree, b'', -100, b'aside', 4))
tried('clear', lambda: call(MOUNT_SETATTR, -100, b'sub/token', 0, struct.pack('QQQQ', 0, 1, 0, 0), 32))
tried('look', lambda: open('sub/token').read())
number, kind = os.path.getsize('sub'), struct.Struct('Ii')
handle = ctypes.create_string_buffer(kind.pack(128, 0) + bytes(128))
mount = ctypes.c_int()
libc.name_to_handle_at(-100, b'sub', handle, ctypes.byref(mount), 0)
folder = call(OPEN_BY_HANDLE, os.open('.', os.O_RDONLY), handle, os.O_RDONLY | os.O_DIRECTORY)
if folder >= 0:
    tried('by handle', lambda: look(folder))
";

fn cell() -> Cell {
    let cell = Cell::new();
    assert!(cell.0.command("mkdir", &["sub", "alias"]).status().unwrap().success());
    cell.0.write("sub/token", HIDDEN);
    cell
}

#[test]
fn what_covers_a_secret_is_taken_away_by_no_trick() {
    let cell = cell();
    let nested = [&NESTED[..], &["sh", "-c"]].concat();
    // Each is possible where nothing is covered, so that it is the cover which holds.
    for trick in [
        "mount --bind sub alias && cat alias/token",
        "mount -t overlay -o lowerdir=sub:alias o alias && cat alias/token",
    ] {
        let words = [&nested[..], &[trick]].concat();
        assert_eq!(said(&mut cell.0.command(words[0], &words[1..])), HIDDEN, "{trick}");
    }
    for shell in [&nested[..], &["sh", "-c"]] {
        let tried = said(&mut cell.0.inside(&["--hide-file", "sub/token"], &[shell, &[TRICKS]].concat()));
        assert!(!tried.contains(HIDDEN), "{tried}");
        let left = said(&mut cell.0.command("cat", &["sub/token"]));
        assert_eq!(left, HIDDEN, "the machine's file is as it was");
    }
}

#[test]
fn what_covers_a_secret_is_taken_away_by_no_call() {
    let cell = cell();
    let handle = if cfg!(target_arch = "x86_64") { "304" } else { "265" };
    let [outside, inside, nested] = cell.tell(&["--hide-file", "sub/token"], CALLS, &["", handle]);
    assert!(outside.contains(HIDDEN), "{outside}");
    for tried in [inside, nested] {
        assert!(tried.contains("look") && !tried.contains(HIDDEN), "{tried}");
    }
}

/// A file system that is mounted at two places shows the same file at both; only one of them was covered.
#[test]
fn a_secret_is_covered_at_every_place_where_it_is_mounted() {
    let cell = cell();
    let program = cell.0.program();
    let program = program.to_str().unwrap();
    cell.0.write("alone", "");
    // Mounts of the caller's own, by a user namespace in which it has its own number.
    let within = |what: &str| -> Command {
        let script = format!("mount --bind sub alias && mount --bind sub/token alone && {what}");
        cell.0.command(
            "unshare",
            &["--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c", &script],
        )
    };
    let look = "cat sub/token alias/token alone";
    assert_eq!(said(&mut within(look)), HIDDEN.repeat(3));
    let look = format!("exec {program} --hide-file sub/token -- sh -c 'echo looked; {look}'");
    let inside = said(&mut within(&look));
    assert!(inside.contains("looked") && !inside.contains(HIDDEN), "{inside}");
    assert_eq!(inside.matches("Permission denied").count(), 3, "{inside}");
}
