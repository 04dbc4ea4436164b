# Sources only: what cargo and mix build is never formatted.
[
  inputs: ["{mix,.formatter}.exs", "{lib,test,bench,bin}/**/*.{ex,exs}"]
]
