;; Asks for a credential in `authorization`, in place of what the sandbox sent. SECRET is the secret's name, and the list
;; of actions (one entry: op 2, no argument, 13 bytes of name, then "Bearer ", a zero and the secret's name) lies at 4096.
(module
  (import "outgate" "panic" (func (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 4096) "\02\00\0d\00LENGTH\00\00\00authorizationBearer \00SECRET")
  (func (export "og_alloc") (param i32) (result i32) i32.const 16384)
  (func (export "og_init") (param i32 i32) (result i64) i64.const 0)
  (func (export "og_event") (param i32 i32 i32) (result i64) i64.const ANSWER)
  (@custom "outgate" "{\22abi\22:1,\22name\22:\22inject\22,\22hooks\22:[\22request\22]}"))
