//! One record per request, and per connection that carried none.
