package content

// ScanWork lets tests see how far Markdown is parsed, and the bound of the parser's work.
func ScanWork(md string) (cut, work int) { return scanWork(cleanText(md)) }

// MaxWork is the bound that ScanWork keeps to.
const MaxWork = maxWork
