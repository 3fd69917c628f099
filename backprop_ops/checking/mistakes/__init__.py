"""The known mistakes, by what they are about: each looks at the evidence and says if it is it."""
