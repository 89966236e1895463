package content

// ScanWork lets tests see how far Markdown is parsed, and the bound of the parser's work.
func ScanWork(md string) (cut, work int) { return scanWork(cleanText(md)) }

// MaxWork is the bound that ScanWork keeps to.
const MaxWork = maxWork

// ElementDepth gives how deep elements nest in the tree that HTML is read into, and how many there are.
func ElementDepth(src string) (depth, count int) {
	var walk func(*element, int)
	walk = func(e *element, d int) {
		depth = max(depth, d)
		for _, k := range e.kids {
			if k.name != "" {
				count++
			}
			walk(k, d+1)
		}
	}
	walk(parseElements(src), 0)
	return depth, count
}
