;; Refuses every request: one action, op 8, without status and reason.
(module
  (import "outgate" "panic" (func (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 4096) "\08\00\00\00\00\00\00\00")
  (func (export "og_alloc") (param i32) (result i32) i32.const 16384)
  (func (export "og_init") (param i32 i32) (result i64) i64.const 0)
  (func (export "og_event") (param i32 i32 i32) (result i64) i64.const 17592186044424)
  (@custom "outgate" "{\22abi\22:1,\22name\22:\22refuse\22,\22hooks\22:[\22request\22]}"))
