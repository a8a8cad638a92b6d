//! What the shipped plane is made of.

use std::{fs, path::Path};

use tests::process::{outgate, shipped_plane};

/// A part of every symbol of the code generator.
const COMPILER: &[u8] = b"cranelift_codegen";

fn holds_compiler(program: &Path) -> bool {
    let bytes = fs::read(program).unwrap();
    bytes.windows(COMPILER.len()).any(|window| window == COMPILER)
}

#[test]
fn shipped_plane_holds_no_compiler_and_control_does() {
    assert!(holds_compiler(&outgate()), "the search finds nothing even where the compiler is");
    let plane = shipped_plane();
    assert!(
        !holds_compiler(&plane),
        "{} holds the compiler: build it alone, as README.md says",
        plane.display()
    );
}
